#include "link/admission.h"

#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/ec_key.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace fedumm::link {
namespace {

constexpr size_t kMaxTextBytes = 256;  // of a name or location

absl::Status CheckText(const std::optional<std::string>& text, const char* what) {
  if (!text.has_value() || text->size() <= kMaxTextBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the ", what, " of a node has at most ",
                                                 kMaxTextBytes, " bytes, not ", text->size()));
}

void TurnAway(LinkState& state, uint64_t node, Answers& answers)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(state.mu) {
  state.mailbox.TurnAway(
      node, {.code = ErrorCode::kNodeUnavailable, .reason = "the node's key was taken back"});
  if (std::optional<HeldPulls::Pull> pull = state.pulls.Take(node)) {
    answers.Add([done = std::move(pull->done)] {
      done(absl::UnauthenticatedError("the key is not registered any more"));
    });
  }
  state.NotifyWaiters(answers);
  state.Report(node, "was removed, its key was revoked", answers);
}

}  // namespace

absl::Status Admission::AllowKeys(const std::vector<std::string>& public_keys) {
  absl::flat_hash_set<std::string> keys;
  for (size_t i = 0; i < public_keys.size(); ++i) {
    absl::StatusOr<std::string> key = ParsePublicKey(public_keys[i]);
    if (!key.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("allowed key number ", i + 1, ": ", key.status().message()));
    }
    keys.insert(*std::move(key));
  }
  if (!state_.options.known_keys_only) {
    return absl::FailedPreconditionError("any key may join: node authentication is not enabled");
  }
  Answers answers;
  MutexLock lock(state_.mu);
  for (const uint64_t node : state_.nodes.Allow(std::move(keys), state_.options.timer())) {
    TurnAway(state_, node, answers);
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Admission::RegisterNode(Enrolment enrolment) {
  FEDUMM_RETURN_IF_ERROR(CheckText(enrolment.location, "location"));
  FEDUMM_RETURN_IF_ERROR(CheckText(enrolment.name, "name"));
  FEDUMM_ASSIGN_OR_RETURN(std::string key, ParsePublicKey(enrolment.public_key));
  MutexLock lock(state_.mu);
  return state_.nodes.Enrol({.public_key = std::move(key),
                             .location = std::move(enrolment.location),
                             .name = std::move(enrolment.name)},
                            state_.options.timer());
}

absl::Status Admission::UnregisterNode(uint64_t node) {
  Answers answers;
  MutexLock lock(state_.mu);
  FEDUMM_RETURN_IF_ERROR(state_.nodes.Revoke(node, state_.options.timer()));
  TurnAway(state_, node, answers);
  return absl::OkStatus();
}

std::vector<flwr::proto::NodeInfo> Admission::Nodes() const {
  MutexLock lock(state_.mu);
  return state_.nodes.Describe(state_.options.timer());
}

}  // namespace fedumm::link
