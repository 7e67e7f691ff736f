#include "tests/node/fake_fleet.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "wire/proto.h"

namespace fedumm {
namespace {

constexpr absl::Duration kTestTimeout = absl::Seconds(30);  // only a broken node takes that long

}  // namespace

wire::DeflatedMessage FakeFleet::Offer(Message instruction) {
  Metadata& metadata = instruction.metadata;
  metadata.run_id = kRunId;
  metadata.src_node_id = kSuperLinkNodeId;
  if (metadata.dst_node_id == 0) metadata.dst_node_id = kNodeId;
  if (metadata.message_type.empty()) metadata.message_type = "train";
  if (metadata.created_at == 0)
    metadata.created_at = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
  wire::DeflatedMessage parts = wire::Deflater().Deflate(instruction);
  metadata.message_id = parts.message_id;
  {
    const MutexLock lock(mutex_);
    for (const wire::Object& object : parts.objects) objects_[object.id] = object.bytes;
  }
  OfferRaw(wire::MessageToWire(instruction), parts.tree);
  return parts;
}

void FakeFleet::OfferRaw(flwr::proto::Message message, flwr::proto::ObjectTree tree) {
  const MutexLock lock(mutex_);
  flwr::proto::PullMessagesResponse response;
  *response.add_messages_list() = std::move(message);
  *response.add_message_object_trees() = std::move(tree);
  offered_.push_back(std::move(response));
  changed_.NotifyAll();
}

Message FakeFleet::TakeReply() {
  const MutexLock lock(mutex_);
  while (replies_.empty()) {
    if (!changed_.WaitFor(mutex_, kTestTimeout) && replies_.empty()) {
      ADD_FAILURE() << "no reply";
      return {};
    }
  }
  Message reply = std::move(replies_.front());
  replies_.pop_front();
  return reply;
}

void FakeFleet::Fail(const std::string& rpc, std::vector<absl::Status> failures) {
  const MutexLock lock(mutex_);
  failures_[rpc].assign(failures.begin(), failures.end());
}

void FakeFleet::Withhold(const std::string& object_id, int times) {
  const MutexLock lock(mutex_);
  withheld_[object_id] = times;
}

void FakeFleet::Lose(const std::string& object_id) {
  const MutexLock lock(mutex_);
  objects_.erase(object_id);
}

void FakeFleet::Replace(const std::string& object_id, std::string bytes) {
  const MutexLock lock(mutex_);
  objects_[object_id] = std::make_shared<const std::string>(std::move(bytes));
}

void FakeFleet::RefusePushes(int times) {
  const MutexLock lock(mutex_);
  refused_pushes_ = times;
}

void FakeFleet::ForgetNodes() {
  const MutexLock lock(mutex_);
  known_ = false;
  changed_.NotifyAll();
}

void FakeFleet::SetFab(const std::string& content, const std::string& hash) {
  const MutexLock lock(mutex_);
  fab_ = content;
  run_.set_fab_hash(hash);
}

void FakeFleet::SetRunConfig(ConfigRecord config) {
  const MutexLock lock(mutex_);
  ASSERT_TRUE(wire::ConfigToScalars(config, *run_.mutable_override_config()).ok());
}

bool FakeFleet::AwaitCalls(const std::string& rpc, int times) {
  const MutexLock lock(mutex_);
  while (num_calls_[rpc] < times) {
    if (!changed_.WaitFor(mutex_, kTestTimeout) && num_calls_[rpc] < times) {
      ADD_FAILURE() << rpc << " was called " << num_calls_[rpc] << " times, not " << times;
      return false;
    }
  }
  return true;
}

int FakeFleet::num_calls(const std::string& rpc) const {
  const MutexLock lock(mutex_);
  const auto found = num_calls_.find(rpc);
  return found == num_calls_.end() ? 0 : found->second;
}

std::vector<std::string> FakeFleet::calls() const {
  const MutexLock lock(mutex_);
  return calls_;
}

int FakeFleet::num_pushed_objects() const {
  const MutexLock lock(mutex_);
  return num_pushed_;
}

absl::Status FakeFleet::Enter(const std::string& rpc, uint64_t node_id,
                              const CallOptions& options) {
  if (options.cancel.stop_requested()) return absl::CancelledError("cancelled");
  if (options.timeout <= absl::ZeroDuration()) return absl::DeadlineExceededError("no time");
  if (rpc != "SendNodeHeartbeat") calls_.push_back(rpc);
  ++num_calls_[rpc];
  changed_.NotifyAll();
  if (std::deque<absl::Status>& failures = failures_[rpc]; !failures.empty()) {
    absl::Status failure = failures.front();
    failures.pop_front();
    if (!failure.ok()) return failure;
  }
  if (node_id != 0 && (!known_ || node_id != kNodeId)) {
    return absl::UnauthenticatedError("unknown node");
  }
  return absl::OkStatus();
}

absl::StatusOr<flwr::proto::RegisterNodeFleetResponse> FakeFleet::RegisterNode(
    const flwr::proto::RegisterNodeFleetRequest& request, const CallOptions& options) {
  const MutexLock lock(mutex_);
  FEDUMM_RETURN_IF_ERROR(Enter("RegisterNode", 0, options));
  EXPECT_EQ(request.public_key(), "PEM");
  known_ = true;
  flwr::proto::RegisterNodeFleetResponse response;
  response.set_node_id(kNodeId);
  return response;
}

absl::StatusOr<flwr::proto::ActivateNodeResponse> FakeFleet::ActivateNode(
    const flwr::proto::ActivateNodeRequest& request, const CallOptions& options) {
  const MutexLock lock(mutex_);
  FEDUMM_RETURN_IF_ERROR(Enter("ActivateNode", 0, options));
  EXPECT_EQ(request.public_key(), "PEM");
  EXPECT_EQ(request.heartbeat_interval(), 30);
  flwr::proto::ActivateNodeResponse response;
  response.set_node_id(kNodeId);
  return response;
}

absl::StatusOr<flwr::proto::DeactivateNodeResponse> FakeFleet::DeactivateNode(
    const flwr::proto::DeactivateNodeRequest& request, const CallOptions& options) {
  const MutexLock lock(mutex_);
  FEDUMM_RETURN_IF_ERROR(Enter("DeactivateNode", request.node_id(), options));
  return flwr::proto::DeactivateNodeResponse();
}

absl::StatusOr<flwr::proto::UnregisterNodeFleetResponse> FakeFleet::UnregisterNode(
    const flwr::proto::UnregisterNodeFleetRequest& request, const CallOptions& options) {
  const MutexLock lock(mutex_);
  FEDUMM_RETURN_IF_ERROR(Enter("UnregisterNode", request.node_id(), options));
  return flwr::proto::UnregisterNodeFleetResponse();
}

absl::StatusOr<flwr::proto::SendNodeHeartbeatResponse> FakeFleet::SendNodeHeartbeat(
    const flwr::proto::SendNodeHeartbeatRequest& request, const CallOptions& options) {
  const MutexLock lock(mutex_);
  FEDUMM_RETURN_IF_ERROR(Enter("SendNodeHeartbeat", request.node().node_id(), options));
  flwr::proto::SendNodeHeartbeatResponse response;
  response.set_success(true);
  return response;
}

absl::StatusOr<flwr::proto::PullMessagesResponse> FakeFleet::PullMessages(
    const flwr::proto::PullMessagesRequest& request, const CallOptions& options) {
  const std::stop_callback wake(options.cancel, [this] {
    const MutexLock lock(mutex_);
    changed_.NotifyAll();
  });
  const MutexLock lock(mutex_);
  FEDUMM_RETURN_IF_ERROR(Enter("PullMessages", request.node().node_id(), options));
  while (offered_.empty() && known_) {
    if (options.cancel.stop_requested()) return absl::CancelledError("cancelled");
    changed_.WaitFor(mutex_, kTestTimeout);
  }
  if (!known_) return absl::UnauthenticatedError("unknown node");
  flwr::proto::PullMessagesResponse response = std::move(offered_.front());
  offered_.pop_front();
  return response;
}

absl::StatusOr<flwr::proto::GetRunResponse> FakeFleet::GetRun(
    const flwr::proto::GetRunRequest& request, const CallOptions& options) {
  const MutexLock lock(mutex_);
  FEDUMM_RETURN_IF_ERROR(Enter("GetRun", request.node().node_id(), options));
  flwr::proto::GetRunResponse response;
  *response.mutable_run() = run_;
  response.mutable_run()->set_run_id(request.run_id());
  return response;
}

absl::StatusOr<flwr::proto::GetFabResponse> FakeFleet::GetFab(
    const flwr::proto::GetFabRequest& request, const CallOptions& options) {
  const MutexLock lock(mutex_);
  FEDUMM_RETURN_IF_ERROR(Enter("GetFab", request.node().node_id(), options));
  EXPECT_EQ(request.run_id(), kRunId);
  EXPECT_EQ(request.hash_str(), run_.fab_hash());
  flwr::proto::GetFabResponse response;
  response.mutable_fab()->set_content(fab_);
  return response;
}

absl::StatusOr<flwr::proto::PullObjectResponse> FakeFleet::PullObject(
    const flwr::proto::PullObjectRequest& request, const CallOptions& options) {
  const MutexLock lock(mutex_);
  FEDUMM_RETURN_IF_ERROR(Enter("PullObject", request.node().node_id(), options));
  flwr::proto::PullObjectResponse response;
  const auto found = objects_.find(request.object_id());
  response.set_object_found(found != objects_.end());
  if (found == objects_.end() || withheld_[request.object_id()]-- > 0) return response;
  response.set_object_available(true);
  response.set_object_content(*found->second);
  return response;
}

absl::StatusOr<flwr::proto::ConfirmMessageReceivedResponse> FakeFleet::ConfirmMessageReceived(
    const flwr::proto::ConfirmMessageReceivedRequest& request, const CallOptions& options) {
  const MutexLock lock(mutex_);
  FEDUMM_RETURN_IF_ERROR(Enter("ConfirmMessageReceived", request.node().node_id(), options));
  return flwr::proto::ConfirmMessageReceivedResponse();
}

absl::StatusOr<flwr::proto::PushMessagesResponse> FakeFleet::PushMessages(
    const flwr::proto::PushMessagesRequest& request, const CallOptions& options) {
  const MutexLock lock(mutex_);
  FEDUMM_RETURN_IF_ERROR(Enter("PushMessages", request.node().node_id(), options));
  EXPECT_EQ(request.messages_list_size(), 1);
  EXPECT_EQ(request.message_object_trees_size(), 1);
  EXPECT_EQ(request.clientapp_runtime_list_size(), 1);
  arriving_ = request.messages_list(0);
  EXPECT_EQ(arriving_.metadata().message_id(), request.message_object_trees(0).object_id());
  EXPECT_NE(arriving_.has_content(), arriving_.has_error());
  EXPECT_EQ(arriving_.content().items_size(), 0);
  FEDUMM_ASSIGN_OR_RETURN(const auto ids, wire::TreeIds(request.message_object_trees(0), {}));
  awaited_.clear();
  flwr::proto::PushMessagesResponse response;
  response.set_session_id(absl::StrCat("session ", ++num_sessions_));
  (*response.mutable_results())[arriving_.metadata().message_id()] = 0;
  for (const std::string& id : ids) {
    if (objects_.contains(id)) continue;
    awaited_.insert(id);
    response.add_objects_to_push(id);
  }
  return response;
}

absl::StatusOr<flwr::proto::PushObjectResponse> FakeFleet::PushObject(
    const flwr::proto::PushObjectRequest& request, const CallOptions& options) {
  const MutexLock lock(mutex_);
  FEDUMM_RETURN_IF_ERROR(Enter("PushObject", request.node().node_id(), options));
  EXPECT_EQ(request.session_id(), absl::StrCat("session ", num_sessions_));
  EXPECT_EQ(Sha256Hex(request.object_content()), request.object_id());
  flwr::proto::PushObjectResponse response;
  if (refused_pushes_ > 0) {
    --refused_pushes_;
    return response;
  }
  EXPECT_EQ(awaited_.erase(request.object_id()), 1) << "not asked for";
  response.set_stored(true);
  ++num_pushed_;
  objects_[request.object_id()] = std::make_shared<const std::string>(request.object_content());
  if (awaited_.empty()) {
    absl::StatusOr<Message> reply =
        wire::Inflate(arriving_.metadata().message_id(),
                      [this](std::string_view id) ABSL_NO_THREAD_SAFETY_ANALYSIS {
                        const auto found = objects_.find(id);
                        return found == objects_.end() ? nullptr : found->second;
                      },
                      {});
    EXPECT_TRUE(reply.ok()) << reply.status();
    if (reply.ok()) replies_.push_back(*std::move(reply));
    changed_.NotifyAll();
  }
  return response;
}

}  // namespace fedumm
