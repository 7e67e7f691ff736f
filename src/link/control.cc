#include "link/control.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "wire/proto.h"

namespace fedumm::link {
namespace {

constexpr uint64_t kDefaultListed = 20;
constexpr double kLogStep = 1e-6;  // Flower's readers ask again for the last time that they saw

absl::Status Unusable(absl::string_view what, const absl::Status& status) {
  return absl::FailedPreconditionError(absl::StrCat(what, ": ", status.message()));
}

// `flwr run` of an app that is here; what else its request can ask for is not offered.
absl::Status CheckOffered(const flwr::proto::StartRunRequest& request) {
  if (!request.app_spec().empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("only apps that are sent along are run, not ", request.app_spec()));
  }
  if (!request.federation().empty() && !request.federation().starts_with("@none/")) {
    return absl::FailedPreconditionError(
        absl::StrCat("there are no federations but @none/default: ", request.federation()));
  }
  if (request.connector_ids_size() + request.connector_refs_size() > 0) {
    return absl::FailedPreconditionError("connectors are not offered");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<flwr::proto::StartRunResponse> Control::StartRun(
    const flwr::proto::StartRunRequest& request) {
  FEDUMM_RETURN_IF_ERROR(CheckOffered(request));
  absl::StatusOr<Fab> fab = Fab::Parse(request.fab().content());
  if (!fab.ok()) return Unusable("the app bundle cannot be used", fab.status());
  RunOptions options;
  absl::StatusOr<ConfigRecord> overrides =
      wire::ConfigFromScalars(request.override_config(), state_.options.limits);
  if (!overrides.ok()) return Unusable("the run config cannot be used", overrides.status());
  for (const auto& [key, value] : *overrides) {
    if (!fab->config().contains(key)) {
      return absl::FailedPreconditionError(
          absl::StrCat("the app's config has no key '", key, "' to override"));
    }
  }
  options.run_config = *std::move(overrides);
  options.fab = std::make_shared<const Fab>(*std::move(fab));

  flwr::proto::StartRunResponse response;
  Answers answers;
  MutexLock lock(state_.mu);
  if (state_.stopping) return absl::UnavailableError("the server is stopping");
  FEDUMM_ASSIGN_OR_RETURN(const uint64_t run_id,
                          state_.runs.Submit(options, state_.options.clock()));
  state_.OfferRuns(answers);
  const flwr::proto::Run& run = *state_.runs.Find(run_id);
  response.set_run_id(run_id);
  response.set_series_id(run.series_id());
  response.set_federation(run.federation());
  return response;
}

absl::StatusOr<flwr::proto::ListRunsResponse> Control::ListRuns(
    const flwr::proto::ListRunsRequest& request) {
  flwr::proto::ListRunsResponse response;
  MutexLock lock(state_.mu);
  std::vector<uint64_t> ids;
  if (request.has_run_id()) {
    if (state_.runs.Find(request.run_id()) == nullptr) {
      return absl::NotFoundError(absl::StrCat("there is no run ", request.run_id()));
    }
    ids.push_back(request.run_id());
  } else {
    ids = state_.runs.Newest();
    const auto count = static_cast<uint64_t>(ids.size());
    ids.erase(ids.begin(), ids.begin() + static_cast<int64_t>(std::min(request.skip(), count)));
    const uint64_t limit = request.has_limit() ? request.limit() : kDefaultListed;
    if (ids.size() > limit) ids.resize(limit);
  }
  for (const uint64_t id : ids) (*response.mutable_run_dict())[id] = *state_.runs.Find(id);
  response.set_now(IsoTime(state_.options.clock()));
  return response;
}

absl::StatusOr<flwr::proto::StopRunResponse> Control::StopRun(
    const flwr::proto::StopRunRequest& request) {
  Answers answers;
  MutexLock lock(state_.mu);
  if (state_.runs.Find(request.run_id()) == nullptr) {
    return absl::NotFoundError(absl::StrCat("there is no run ", request.run_id()));
  }
  if (!state_.FinishRun(request.run_id(), kStopped, "", answers)) {
    return absl::FailedPreconditionError(
        absl::StrCat("run ", request.run_id(), " is finished already"));
  }
  flwr::proto::StopRunResponse response;
  response.set_success(true);
  return response;
}

absl::StatusOr<flwr::proto::RegisterNodeResponse> Control::RegisterNode(
    const flwr::proto::RegisterNodeRequest& request) {
  Admission::Enrolment enrolment;
  enrolment.public_key = request.public_key();
  if (request.has_location()) enrolment.location = request.location();
  if (request.has_name()) enrolment.name = request.name();
  const absl::StatusOr<uint64_t> node = admission_.RegisterNode(std::move(enrolment));
  if (absl::IsInvalidArgument(node.status())) return Unusable("it cannot join", node.status());
  FEDUMM_RETURN_IF_ERROR(node.status());
  flwr::proto::RegisterNodeResponse response;
  response.set_node_id(*node);
  return response;
}

absl::StatusOr<flwr::proto::UnregisterNodeResponse> Control::UnregisterNode(
    const flwr::proto::UnregisterNodeRequest& request) {
  FEDUMM_RETURN_IF_ERROR(admission_.UnregisterNode(request.node_id()));
  return flwr::proto::UnregisterNodeResponse();
}

absl::StatusOr<flwr::proto::ListNodesResponse> Control::ListNodes(
    const flwr::proto::ListNodesRequest& /*request*/) {
  flwr::proto::ListNodesResponse response;
  for (flwr::proto::NodeInfo& node : admission_.Nodes()) {
    *response.add_nodes_info() = std::move(node);
  }
  response.set_now(IsoTime(state_.options.clock()));
  return response;
}

absl::StatusOr<Control::Logs> Control::ReadLogs(const flwr::proto::StreamLogsRequest& request) {
  Logs logs;
  MutexLock lock(state_.mu);
  if (state_.runs.Find(request.run_id()) == nullptr) {
    return absl::NotFoundError(absl::StrCat("there is no run ", request.run_id()));
  }
  RunLogs::Part part =
      state_.apps.logs.Read(request.run_id(), request.after_timestamp() + kLogStep);
  if (!part.text.empty()) {
    logs.part.set_log_output(std::move(part.text));
    logs.part.set_latest_timestamp(part.latest);
  }
  logs.finished = state_.stopping || state_.runs.IsFinished(request.run_id());
  return logs;
}

void Control::WatchLogs(uint64_t run_id, uint64_t ticket, std::function<void()> on_more) {
  MutexLock lock(state_.mu);
  state_.apps.log_readers[ticket] = {run_id, std::move(on_more)};
}

void Control::UnwatchLogs(uint64_t ticket) {
  std::function<void()> on_more;  // destroyed without the lock
  MutexLock lock(state_.mu);
  const auto it = state_.apps.log_readers.find(ticket);
  if (it == state_.apps.log_readers.end()) return;
  on_more = std::move(it->second.second);
  state_.apps.log_readers.erase(it);
}

}  // namespace fedumm::link
