#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/random.h"
#include "node/environment.h"
#include "node/fleet_client.h"

namespace fedumm {

// The delay before each next try: 0.1, 0.2, 0.4 .. 20 s, times a random number of [0, 1). Not
// thread-safe.
class Backoff {
 public:
  explicit Backoff(uint64_t seed, absl::Duration cap = absl::Seconds(20))
      : random_(seed), cap_(cap) {}

  absl::Duration Next();
  void Reset() { base_ = kFirst; }

 private:
  static constexpr absl::Duration kFirst = absl::Milliseconds(100);
  Random random_;
  absl::Duration cap_;
  absl::Duration base_ = kFirst;
};

// When to stop trying.
struct RetryLimits {
  int64_t max_retries = -1;                                 // consecutive; negative: no limit
  absl::Duration max_wait_time = absl::InfiniteDuration();  // since the last success
};

// Makes Fleet calls until they are answered: UNAVAILABLE and DEADLINE_EXCEEDED are tried again
// after a back-off. What comes out is an answer, the server's refusal, CANCELLED once `cancel` is
// requested, or UNAVAILABLE when the limits are reached. Not thread-safe. The client and the
// environment outlive it.
class Caller {
 public:
  struct Options {
    std::string server;  // its name for people
    RetryLimits limits;
    std::function<void(const std::string&)> on_event;
    std::stop_token cancel;
    absl::Time deadline = absl::InfiniteFuture();  // no call outlives it, and none starts after it
  };

  Caller(FleetClient& fleet, const NodeEnvironment& environment, Options options);

  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(absl::StatusOr<Response> (FleetClient::*rpc)(const Request&,
                                                                             const CallOptions&),
                                const Request& request,
                                absl::Duration timeout = absl::Seconds(30)) {
    return Retry([&](const CallOptions& options) { return (fleet_.*rpc)(request, options); },
                 timeout);
  }
  // The same for calls of any kind: `make` makes one try. A try that ran out of time is followed by
  // one with twice the time, up to `max_timeout`.
  template <typename Make>
  auto Retry(const Make& make, absl::Duration timeout,
             absl::Duration max_timeout = absl::ZeroDuration()) -> decltype(make(CallOptions())) {
    while (true) {
      if (absl::Status status = MayCall(); !status.ok()) return status;
      auto result = make(CallFor(timeout));
      if (!IsTransient(StatusOf(result))) {
        if (result.ok()) Succeeded();
        return result;
      }
      if (absl::IsDeadlineExceeded(StatusOf(result)) && timeout < max_timeout) {
        timeout = std::min(2 * timeout, max_timeout);
      }
      if (absl::Status status = AwaitRetry(StatusOf(result)); !status.ok()) return status;
    }
  }
  FleetClient& fleet() { return fleet_; }  // for `make`

  // Counts `failure` and waits before the next try: OK, CANCELLED, or UNAVAILABLE when the limits
  // are reached.
  absl::Status AwaitRetry(const absl::Status& failure);
  // CANCELLED if stopped first.
  absl::Status Wait(absl::Duration duration);
  absl::Time Now() const { return environment_.clock(); }

 private:
  static const absl::Status& StatusOf(const absl::Status& status) { return status; }
  template <typename T>
  static const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
    return result.status();
  }
  // A server that shuts down cancels the calls that it holds.
  bool IsTransient(const absl::Status& status) const {
    return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
           (absl::IsCancelled(status) && !options_.cancel.stop_requested());
  }
  absl::Status MayCall() const;
  CallOptions CallFor(absl::Duration timeout) const;
  void Succeeded();

  FleetClient& fleet_;
  const NodeEnvironment& environment_;
  Options options_;
  Backoff backoff_;
  int64_t failures_ = 0;
  absl::Time first_failure_;
};

}  // namespace fedumm
