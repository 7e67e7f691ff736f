#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "flwr/proto/control.pb.h"
#include "link/admission.h"
#include "link/link_state.h"

namespace fedumm::link {

// The half of a SuperLink for its users' command line (`flwr run`, `flwr list`, …): one function
// for each call of Flower's Control API, whatever the transport. There are no accounts:
// the transport decides which peers may call. Thread-safe; no function waits.
//
// Errors: NOT_FOUND for an unknown run or node, FAILED_PRECONDITION for what a run's state, its
// config or a key does not allow, INVALID_ARGUMENT for what must not be, UNAVAILABLE (try again).
class Control {
 public:
  // `state` outlives the control.
  explicit Control(LinkState& state) : state_(state), admission_(state) {}

  // FAILED_PRECONDITION for a bundle that is none, and for an override of a key that its config
  // does not have.
  absl::StatusOr<flwr::proto::StartRunResponse> StartRun(
      const flwr::proto::StartRunRequest& request);
  absl::StatusOr<flwr::proto::ListRunsResponse> ListRuns(
      const flwr::proto::ListRunsRequest& request);
  absl::StatusOr<flwr::proto::StopRunResponse> StopRun(const flwr::proto::StopRunRequest& request);
  // FAILED_PRECONDITION for a text that is no key, ALREADY_EXISTS for one that is or was a node's.
  absl::StatusOr<flwr::proto::RegisterNodeResponse> RegisterNode(
      const flwr::proto::RegisterNodeRequest& request);
  absl::StatusOr<flwr::proto::UnregisterNodeResponse> UnregisterNode(
      const flwr::proto::UnregisterNodeRequest& request);
  absl::StatusOr<flwr::proto::ListNodesResponse> ListNodes(
      const flwr::proto::ListNodesRequest& request);

  // A run's logs as they come. NOT_FOUND if there is no such run.
  struct Logs {
    flwr::proto::StreamLogsResponse part;  // what came since the time asked for; may be empty
    bool finished = false;                 // no more will come
  };
  absl::StatusOr<Logs> ReadLogs(const flwr::proto::StreamLogsRequest& request);
  // Calls `on_more` whenever there may be more logs of the run, until Unwatch; it must not call
  // this object's Watch or Unwatch. `ticket` is any number that no other watch has.
  void WatchLogs(uint64_t run_id, uint64_t ticket, std::function<void()> on_more);
  void UnwatchLogs(uint64_t ticket);

 private:
  LinkState& state_;
  Admission admission_;
};

}  // namespace fedumm::link
