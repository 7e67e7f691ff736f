#pragma once

#include <chrono>

#include "absl/time/time.h"

namespace fedumm {

// The rest of a timeout, on the monotonic clock.
class Countdown {
 public:
  explicit Countdown(absl::Duration timeout) : timeout_(timeout) {}

  // Zero or less once it is over.
  absl::Duration left() const { return timeout_ - absl::FromChrono(Clock::now() - start_); }

 private:
  using Clock = std::chrono::steady_clock;
  absl::Duration timeout_;
  Clock::time_point start_ = Clock::now();
};

}  // namespace fedumm
