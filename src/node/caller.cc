#include "node/caller.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace fedumm {
namespace {

constexpr absl::Duration kQuiet = absl::Seconds(1);  // shorter waits are not worth a line

}  // namespace

absl::Duration Backoff::Next() {
  const absl::Duration delay = base_ * random_.Uniform();
  base_ = std::min(2 * base_, cap_);
  return delay;
}

Caller::Caller(FleetClient& fleet, const NodeEnvironment& environment, Options options)
    : fleet_(fleet),
      environment_(environment),
      options_(std::move(options)),
      backoff_(environment.seed) {}

absl::Status Caller::AwaitRetry(const absl::Status& failure) {
  if (options_.cancel.stop_requested()) return absl::CancelledError("stopped");
  const absl::Time now = environment_.clock();
  if (failures_++ == 0) first_failure_ = now;
  const RetryLimits& limits = options_.limits;
  if (limits.max_retries >= 0 && failures_ > limits.max_retries) {
    return absl::UnavailableError(absl::StrCat("gave up on ", options_.server, " after ",
                                               limits.max_retries,
                                               " retries: ", Printable(failure.message())));
  }
  const absl::Duration delay = backoff_.Next();
  if (now + delay - first_failure_ > limits.max_wait_time) {
    return absl::UnavailableError(absl::StrCat("gave up on ", options_.server, " after ",
                                               absl::FormatDuration(limits.max_wait_time), ": ",
                                               Printable(failure.message())));
  }
  if (options_.on_event && (failures_ == 1 || delay >= kQuiet)) {
    options_.on_event(absl::StrCat("server unreachable at ", options_.server, ", retrying in ",
                                   absl::ToInt64Milliseconds(delay),
                                   " ms: ", Printable(failure.message())));
  }
  return Wait(delay);
}

absl::Status Caller::Wait(absl::Duration duration) {
  duration = std::min(duration, options_.deadline - environment_.clock());
  if (!environment_.wait(duration, options_.cancel)) return absl::CancelledError("stopped");
  return absl::OkStatus();
}

absl::Status Caller::MayCall() const {
  if (options_.cancel.stop_requested()) return absl::CancelledError("stopped");
  if (environment_.clock() >= options_.deadline) return absl::CancelledError("out of time");
  return absl::OkStatus();
}

CallOptions Caller::CallFor(absl::Duration timeout) const {
  return {std::min(timeout, options_.deadline - environment_.clock()), options_.cancel};
}

void Caller::Succeeded() {
  if (failures_ == 0) return;
  failures_ = 0;
  backoff_.Reset();
  if (options_.on_event) options_.on_event(absl::StrCat("server reached at ", options_.server));
}

}  // namespace fedumm
