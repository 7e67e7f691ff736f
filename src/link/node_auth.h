#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/numeric/int128.h"
#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/mutex.h"

namespace fedumm::link {

// Who says that they are calling: what a node attaches to each call.
struct Caller {
  std::string public_key;  // PEM of an EC public key, as sent
  std::string timestamp;   // ISO 8601 with a zone
  std::string signature;   // DER, ECDSA-SHA256 over `timestamp`
};

// Checks that a caller holds the private key of the public key that it names, now. A signature is
// good for one call. Thread-safe.
class NodeAuth {
 public:
  // `clock` is wall time: nodes sign theirs.
  explicit NodeAuth(std::function<absl::Time()> clock = absl::Now) : clock_(std::move(clock)) {}

  // UNAUTHENTICATED with the reason, or UNAVAILABLE if too many calls were made to remember them.
  absl::Status Check(const Caller& caller);

 private:
  absl::Status RememberSignature(const Caller& caller, absl::Time now);

  const std::function<absl::Time()> clock_;
  Mutex mu_;
  absl::flat_hash_set<absl::uint128> seen_ ABSL_GUARDED_BY(mu_);
  std::deque<std::pair<absl::Time, absl::uint128>> by_age_ ABSL_GUARDED_BY(mu_);
};

}  // namespace fedumm::link
