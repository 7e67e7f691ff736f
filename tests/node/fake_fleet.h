#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "fedumm/message.h"
#include "node/fleet_client.h"
#include "wire/object.h"

namespace fedumm {

// A SuperLink as one node sees it, without a network. Thread-safe.
class FakeFleet final : public FleetClient {
 public:
  static constexpr uint64_t kNodeId = 4242;
  static constexpr uint64_t kRunId = 7;

  // Stores an instruction for the node; returns its parts. Fills in what the metadata lack.
  wire::DeflatedMessage Offer(Message instruction);
  // The same with other parts than the message has.
  void OfferRaw(flwr::proto::Message message, flwr::proto::ObjectTree tree);
  // The next complete reply; an empty one, and a failed test, if none comes.
  Message TakeReply();

  // The next calls of `rpc` return these, one each.
  void Fail(const std::string& rpc, std::vector<absl::Status> failures);
  void Withhold(const std::string& object_id, int times);  // announced, but not available so often
  void Lose(const std::string& object_id);                 // not found any more
  void Replace(const std::string& object_id, std::string bytes);
  void RefusePushes(int times);  // stored=false so often
  void ForgetNodes();            // UNAUTHENTICATED until a node registers again, as after a restart
  void SetRunConfig(ConfigRecord config);
  void SetFab(const std::string& content, const std::string& hash);  // of the run

  // Waits until `rpc` was called `times` times in all. False, and a failed test, if that does not
  // happen.
  bool AwaitCalls(const std::string& rpc, int times);
  int num_calls(const std::string& rpc) const;
  std::vector<std::string> calls() const;  // without heartbeats
  int num_pushed_objects() const;

  absl::StatusOr<flwr::proto::RegisterNodeFleetResponse> RegisterNode(
      const flwr::proto::RegisterNodeFleetRequest& request, const CallOptions& options) override;
  absl::StatusOr<flwr::proto::ActivateNodeResponse> ActivateNode(
      const flwr::proto::ActivateNodeRequest& request, const CallOptions& options) override;
  absl::StatusOr<flwr::proto::DeactivateNodeResponse> DeactivateNode(
      const flwr::proto::DeactivateNodeRequest& request, const CallOptions& options) override;
  absl::StatusOr<flwr::proto::UnregisterNodeFleetResponse> UnregisterNode(
      const flwr::proto::UnregisterNodeFleetRequest& request, const CallOptions& options) override;
  absl::StatusOr<flwr::proto::SendNodeHeartbeatResponse> SendNodeHeartbeat(
      const flwr::proto::SendNodeHeartbeatRequest& request, const CallOptions& options) override;
  absl::StatusOr<flwr::proto::PullMessagesResponse> PullMessages(
      const flwr::proto::PullMessagesRequest& request, const CallOptions& options) override;
  absl::StatusOr<flwr::proto::PushMessagesResponse> PushMessages(
      const flwr::proto::PushMessagesRequest& request, const CallOptions& options) override;
  absl::StatusOr<flwr::proto::GetRunResponse> GetRun(const flwr::proto::GetRunRequest& request,
                                                     const CallOptions& options) override;
  absl::StatusOr<flwr::proto::GetFabResponse> GetFab(const flwr::proto::GetFabRequest& request,
                                                     const CallOptions& options) override;
  absl::StatusOr<flwr::proto::PushObjectResponse> PushObject(
      const flwr::proto::PushObjectRequest& request, const CallOptions& options) override;
  absl::StatusOr<flwr::proto::PullObjectResponse> PullObject(
      const flwr::proto::PullObjectRequest& request, const CallOptions& options) override;
  absl::StatusOr<flwr::proto::ConfirmMessageReceivedResponse> ConfirmMessageReceived(
      const flwr::proto::ConfirmMessageReceivedRequest& request,
      const CallOptions& options) override;

 private:
  // Notes the call, and returns its failure if one is due.
  absl::Status Enter(const std::string& rpc, uint64_t node_id, const CallOptions& options)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<std::string> calls_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int> num_calls_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::deque<absl::Status>> failures_ ABSL_GUARDED_BY(mutex_);
  bool known_ ABSL_GUARDED_BY(mutex_) = false;
  flwr::proto::Run run_ ABSL_GUARDED_BY(mutex_);
  std::string fab_ ABSL_GUARDED_BY(mutex_);
  std::deque<flwr::proto::PullMessagesResponse> offered_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, wire::ObjectBytes, std::less<>> objects_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int> withheld_ ABSL_GUARDED_BY(mutex_);
  int refused_pushes_ ABSL_GUARDED_BY(mutex_) = 0;
  int num_sessions_ ABSL_GUARDED_BY(mutex_) = 0;
  int num_pushed_ ABSL_GUARDED_BY(mutex_) = 0;
  flwr::proto::Message arriving_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> awaited_ ABSL_GUARDED_BY(mutex_);
  std::deque<Message> replies_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace fedumm
