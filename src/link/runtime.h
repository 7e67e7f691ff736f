#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "flwr/proto/fleet.pb.h"
#include "flwr/proto/log.pb.h"
#include "flwr/proto/runtime.pb.h"
#include "link/link_state.h"

namespace fedumm::link {

using AppPullDone = std::function<void(absl::StatusOr<flwr::proto::PullAppMessagesResponse>)>;

// The half of a SuperLink for processes that run ServerApps elsewhere: one function for each call
// of Flower's Runtime API, whatever the transport. The first asks for a run and gets a token with
// it; all others show the token, and see that run only. A token is good until the run ends, for
// 30 s at first (then the run is pending again), and for 60 s from each heartbeat (then the run has
// failed). Thread-safe; no function waits.
//
// Errors: UNAUTHENTICATED for a token that is not good, which makes the process end itself;
// FAILED_PRECONDITION for what the run's state or a node id does not allow, PERMISSION_DENIED for a
// message of another run, INVALID_ARGUMENT for what must not be, UNAVAILABLE (try again).
class Runtime {
 public:
  // `state` outlives the runtime.
  explicit Runtime(LinkState& state) : state_(state) {}

  // Calls `done` exactly once, perhaps before it returns: with a task as soon as a run is pending,
  // without one after `hold`, at Stop, or if the caller runs no ServerApps. `ticket` is any number
  // that no other held call has.
  void AcquireTask(const flwr::proto::AcquireTaskRequest& request, absl::Duration hold,
                   uint64_t ticket, AcquireDone done);
  // The caller of that call has disconnected; a run that it was given is pending again.
  void CancelAcquire(uint64_t ticket);

  // Whether the token is good.
  bool Knows(std::string_view token);
  absl::StatusOr<flwr::proto::SendTaskHeartbeatResponse> SendTaskHeartbeat(
      std::string_view token, const flwr::proto::SendTaskHeartbeatRequest& request);
  absl::StatusOr<flwr::proto::PullTaskInputResponse> PullTaskInput(
      std::string_view token, const flwr::proto::PullTaskInputRequest& request);
  absl::StatusOr<flwr::proto::PushTaskOutputResponse> PushTaskOutput(
      std::string_view token, const flwr::proto::PushTaskOutputRequest& request);
  absl::StatusOr<flwr::proto::PushLogsResponse> PushLogs(
      std::string_view token, const flwr::proto::PushLogsRequest& request);
  absl::StatusOr<flwr::proto::GetNodesResponse> GetNodes(
      std::string_view token, const flwr::proto::GetNodesRequest& request);

  absl::StatusOr<flwr::proto::PushAppMessagesResponse> PushMessages(
      std::string_view token, const flwr::proto::PushAppMessagesRequest& request);
  // Calls `done` exactly once, perhaps before it returns: as soon as all replies asked for are
  // complete or have been given up; with what is there three seconds after the first was, after
  // `hold`, at Stop or when the run ends. A reply is given again until it is confirmed, so that a
  // lost answer loses nothing.
  void PullMessages(std::string_view token, const flwr::proto::PullAppMessagesRequest& request,
                    absl::Duration hold, uint64_t ticket, AppPullDone done);
  void CancelPull(uint64_t ticket);  // its `done` is not called any more
  absl::StatusOr<flwr::proto::PushObjectResponse> PushObject(
      std::string_view token, flwr::proto::PushObjectRequest request);
  absl::StatusOr<flwr::proto::PullObjectResponse> PullObject(
      std::string_view token, const flwr::proto::PullObjectRequest& request);
  absl::StatusOr<flwr::proto::ConfirmMessageReceivedResponse> ConfirmMessageReceived(
      std::string_view token, const flwr::proto::ConfirmMessageReceivedRequest& request);

 private:
  // The run of a good token.
  absl::StatusOr<uint64_t> Admit(std::string_view token) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mu);
  absl::StatusOr<uint64_t> AdmitObjectCall(std::string_view token, uint64_t node, uint64_t run_id);
  // What is there for these instructions, to be given.
  flwr::proto::PullAppMessagesResponse TakeReplies(uint64_t run_id,
                                                   const std::vector<std::string>& instructions);
  TakenReplies::Reply ToReply(Mailbox::Outcome outcome);

  LinkState& state_;
};

}  // namespace fedumm::link
