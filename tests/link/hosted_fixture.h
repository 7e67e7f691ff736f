#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fedumm/fab.h"
#include "link/control.h"
#include "link/runtime.h"
#include "tests/link/link_fixture.h"

namespace fedumm::link {

// A SuperLink without network that hosts apps, a user's command line and an app's process.
class HostedFixture : public LinkFixture {
 protected:
  // `flwr run`.
  absl::StatusOr<uint64_t> StartRun(
      const std::vector<std::pair<std::string, std::string>>& overrides = {}) {
    flwr::proto::StartRunRequest request;
    request.mutable_fab()->set_content(fab_.content());
    for (const auto& [key, value] : overrides) {
      (*request.mutable_override_config())[key].set_string(value);
    }
    const auto response = control_.StartRun(request);
    if (!response.ok()) return response.status();
    return response->run_id();
  }
  absl::Status StopRun(uint64_t run_id) {
    flwr::proto::StopRunRequest request;
    request.set_run_id(run_id);
    return control_.StopRun(request).status();
  }
  // status:sub_status, as `flwr list` prints it.
  std::string StatusOf(uint64_t run_id) {
    flwr::proto::ListRunsRequest request;
    request.set_run_id(run_id);
    const auto response = control_.ListRuns(request);
    if (!response.ok()) return "";
    const flwr::proto::RunStatus& status = response->run_dict().at(run_id).status();
    return status.sub_status().empty() ? status.status()
                                       : status.status() + ":" + status.sub_status();
  }

  // flower-superexec; the answer comes into `task`.
  void Acquire(absl::Duration hold, uint64_t ticket,
               std::optional<flwr::proto::AcquireTaskResponse>& task) {
    flwr::proto::AcquireTaskRequest request;
    request.add_supported_task_types("flwr-serverapp");
    runtime_.AcquireTask(request, hold, ticket, [&task](auto response) { task = *response; });
  }
  // Empty if no run is pending.
  std::string Token() {
    std::optional<flwr::proto::AcquireTaskResponse> task;
    Acquire(absl::ZeroDuration(), ++last_ticket_, task);
    fleet_.Tick();  // ends a hold of no time
    return task->token();
  }
  absl::StatusOr<flwr::proto::PullTaskInputResponse> PullInput(const std::string& token) {
    return runtime_.PullTaskInput(token, {});
  }
  // A run that runs, and its token.
  std::pair<uint64_t, std::string> RunningRun() {
    const uint64_t run_id = *StartRun();
    std::string token = Token();
    EXPECT_THAT(PullInput(token), testing::IsOk());
    return {run_id, std::move(token)};
  }

  // An instruction of an app, taken apart.
  struct Packed {
    flwr::proto::PushAppMessagesRequest request;
    std::vector<wire::Object> objects;
    std::string id;
  };
  Packed Pack(uint64_t run_id, uint64_t node, double ttl = 3600, int64_t round = 1) {
    Message message = Instruction(node, ttl);
    message.content = Content(round);
    message.metadata.run_id = run_id;
    message.metadata.src_node_id = kSuperLinkNodeId;
    message.metadata.created_at = absl::ToDoubleSeconds(now_ - absl::UnixEpoch());
    return Pack(message);
  }
  static Packed Pack(Message message) {
    wire::DeflatedMessage deflated = wire::Deflater().Deflate(message);
    message.metadata.message_id = deflated.message_id;
    Packed packed;
    packed.id = deflated.message_id;
    packed.objects = std::move(deflated.objects);
    *packed.request.add_messages_list() = wire::MessageToWire(message);
    *packed.request.add_message_object_trees() = std::move(deflated.tree);
    return packed;
  }
  absl::StatusOr<bool> PushObject(const std::string& token, uint64_t run_id,
                                  const wire::Object& object, const std::string& session,
                                  uint64_t node = kSuperLinkNodeId) {
    flwr::proto::PushObjectRequest request;
    request.mutable_node()->set_node_id(node);
    request.set_run_id(run_id);
    request.set_object_id(object.id);
    request.set_object_content(*object.bytes);
    request.set_session_id(session);
    const auto response = runtime_.PushObject(token, std::move(request));
    if (!response.ok()) return response.status();
    return response->stored();
  }
  // Announces it and uploads what is asked for. Returns the ids of the answer.
  absl::StatusOr<std::vector<std::string>> PushAll(const std::string& token, uint64_t run_id,
                                                   const Packed& packed) {
    const auto response = runtime_.PushMessages(token, packed.request);
    if (!response.ok()) return response.status();
    for (const wire::Object& object : packed.objects) {
      const auto& wanted = response->objects_to_push();
      if (std::find(wanted.begin(), wanted.end(), object.id) == wanted.end()) continue;
      const auto stored = PushObject(token, run_id, object, response->session_id());
      if (!stored.ok()) return stored.status();
      if (!*stored) return absl::DataLossError("not stored");
    }
    return std::vector<std::string>(response->message_ids().begin(), response->message_ids().end());
  }
  // Sends an instruction and returns what the node gets to know of it.
  Metadata SendHosted(const std::string& token, uint64_t run_id, TestNode& node,
                      double ttl = 3600) {
    EXPECT_THAT(PushAll(token, run_id, Pack(run_id, node.id, ttl)), testing::IsOk());
    const auto response = node.Pull();
    return *wire::MetadataFromProto(response->messages_list(0).metadata(), {});
  }

  using Replies = std::optional<absl::StatusOr<flwr::proto::PullAppMessagesResponse>>;
  void PullLater(const std::string& token, const std::vector<std::string>& ids, absl::Duration hold,
                 uint64_t ticket, Replies& replies) {
    flwr::proto::PullAppMessagesRequest request;
    request.mutable_message_ids()->Add(ids.begin(), ids.end());
    runtime_.PullMessages(token, request, hold, ticket,
                          [&replies](auto response) { replies = std::move(response); });
  }
  flwr::proto::PullAppMessagesResponse PullNow(const std::string& token,
                                               const std::vector<std::string>& ids) {
    Replies replies;
    PullLater(token, ids, absl::ZeroDuration(), ++last_ticket_, replies);
    EXPECT_TRUE(replies.has_value());
    return replies.has_value() && replies->ok() ? **replies
                                                : flwr::proto::PullAppMessagesResponse();
  }
  absl::StatusOr<flwr::proto::PullObjectResponse> PullObject(const std::string& token,
                                                             uint64_t run_id,
                                                             const std::string& object_id) {
    flwr::proto::PullObjectRequest request;
    request.mutable_node()->set_node_id(kSuperLinkNodeId);
    request.set_run_id(run_id);
    request.set_object_id(object_id);
    return runtime_.PullObject(token, request);
  }
  absl::Status Confirm(const std::string& token, uint64_t run_id, const std::string& reply_id) {
    flwr::proto::ConfirmMessageReceivedRequest request;
    request.mutable_node()->set_node_id(kSuperLinkNodeId);
    request.set_run_id(run_id);
    request.set_message_object_id(reply_id);
    return runtime_.ConfirmMessageReceived(token, request).status();
  }
  absl::Status PushOutput(const std::string& token, const std::string& sub_status) {
    flwr::proto::PushTaskOutputRequest request;
    request.set_sub_status(sub_status);
    return runtime_.PushTaskOutput(token, request).status();
  }

  const Fab fab_ = Fab::Load(FEDUMM_TEST_DATA "/fab/mean-app.fab").value();
  Control control_{state_};
  Runtime runtime_{state_};
  uint64_t last_ticket_ = 1000;
};

}  // namespace fedumm::link
