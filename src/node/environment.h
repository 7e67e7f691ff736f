#pragma once

#include <cstdint>
#include <functional>
#include <stop_token>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace fedumm {

// Waits on the monotonic clock. False if `stop` was requested first.
bool WaitFor(absl::Duration duration, const std::stop_token& stop);

// The clock, waits and random seed of a node; tests set their own.
struct NodeEnvironment {
  using Wait = std::function<bool(absl::Duration, const std::stop_token&)>;

  std::function<absl::Time()> clock = absl::Now;
  Wait wait = WaitFor;            // between tries and polls
  Wait heartbeat_wait = WaitFor;  // between heartbeats
  uint64_t seed = 0;              // of the back-off's jitter
};

}  // namespace fedumm
