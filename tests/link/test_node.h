#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "fedumm/client_app.h"
#include "fedumm/message.h"
#include "flwr/proto/fleet.pb.h"
#include "link/fleet.h"
#include "node/node_key.h"
#include "wire/object.h"
#include "wire/proto.h"

namespace fedumm::link {

// A reply, taken apart and ready to be pushed.
struct PackedReply {
  flwr::proto::PushMessagesRequest request;
  std::vector<wire::Object> objects;
};

// A node that calls a Fleet without any network. `now` is the wall clock that it signs with.
class TestNode {
 public:
  TestNode(Fleet& fleet, const absl::Time& now)
      : fleet_(fleet), now_(now), key_(*NodeKey::Generate()) {}

  Caller Sign() const { return SignAt(now_); }
  Caller SignAt(absl::Time time) const {
    std::string timestamp =
        absl::FormatTime("%Y-%m-%dT%H:%M:%E6S+00:00", time, absl::UTCTimeZone());
    std::string signature = *key_.Sign(timestamp);
    return {key_.public_key_pem(), std::move(timestamp), std::move(signature)};
  }

  absl::StatusOr<uint64_t> Register() {
    flwr::proto::RegisterNodeFleetRequest request;
    request.set_public_key(key_.public_key_pem());
    const auto response = fleet_.RegisterNode(Sign(), request);
    if (!response.ok()) return response.status();
    return id = response->node_id();
  }
  absl::StatusOr<uint64_t> Activate(double interval = 30) {
    flwr::proto::ActivateNodeRequest request;
    request.set_public_key(key_.public_key_pem());
    request.set_heartbeat_interval(interval);
    const auto response = fleet_.ActivateNode(Sign(), request);
    if (!response.ok()) return response.status();
    return response->node_id();
  }
  absl::Status Join() {
    if (absl::Status status = Register().status(); !status.ok()) return status;
    return Activate().status();
  }
  absl::Status Heartbeat(double interval = 30) {
    auto request = Request<flwr::proto::SendNodeHeartbeatRequest>();
    request.set_heartbeat_interval(interval);
    return fleet_.SendNodeHeartbeat(Sign(), request).status();
  }
  absl::Status Deactivate() {
    flwr::proto::DeactivateNodeRequest request;
    request.set_node_id(id);
    return fleet_.DeactivateNode(Sign(), request).status();
  }
  absl::Status Unregister() {
    flwr::proto::UnregisterNodeFleetRequest request;
    request.set_node_id(id);
    return fleet_.UnregisterNode(Sign(), request).status();
  }

  // Held for `hold`; `done` gets the answer.
  void PullLater(absl::Duration hold, uint64_t ticket, PullDone done) {
    fleet_.PullMessages(Sign(), Request<flwr::proto::PullMessagesRequest>(), hold, ticket,
                        std::move(done));
  }
  absl::StatusOr<flwr::proto::PullMessagesResponse> Pull(uint64_t ticket = 0) {
    absl::StatusOr<flwr::proto::PullMessagesResponse> response = absl::InternalError("not done");
    PullLater(absl::ZeroDuration(), ticket, [&](auto result) { response = std::move(result); });
    return response;
  }
  // Whether a message is offered now.
  bool Offered() {
    const auto response = Pull();
    return response.ok() && response->messages_list_size() == 1;
  }
  absl::Status Confirm(const Metadata& instruction) {
    auto request = Request<flwr::proto::ConfirmMessageReceivedRequest>();
    request.set_run_id(instruction.run_id);
    request.set_message_object_id(instruction.message_id);
    return fleet_.ConfirmMessageReceived(Sign(), request).status();
  }
  absl::StatusOr<flwr::proto::PullObjectResponse> PullObject(uint64_t run_id,
                                                             const std::string& object_id) {
    auto request = Request<flwr::proto::PullObjectRequest>();
    request.set_run_id(run_id);
    request.set_object_id(object_id);
    return fleet_.PullObject(Sign(), request);
  }

  PackedReply Pack(Message reply) const {
    wire::DeflatedMessage deflated = wire::Deflater().Deflate(reply);
    reply.metadata.message_id = deflated.message_id;
    PackedReply packed{.objects = std::move(deflated.objects)};
    packed.request.mutable_node()->set_node_id(id);
    *packed.request.add_messages_list() = wire::MessageToWire(reply);
    *packed.request.add_message_object_trees() = std::move(deflated.tree);
    return packed;
  }
  // An honest reply to the instruction.
  PackedReply PackReply(const Metadata& instruction, RecordDict content) const {
    Message message;
    message.metadata = instruction;
    return Pack(MakeReply(message, std::move(content), absl::ToUnixNanos(now_) * 1e-9));
  }
  absl::StatusOr<flwr::proto::PushMessagesResponse> Push(const PackedReply& reply) {
    return fleet_.PushMessages(Sign(), reply.request);
  }
  absl::StatusOr<flwr::proto::PushObjectResponse> PushObject(uint64_t run_id,
                                                             const wire::Object& object,
                                                             const std::string& session = "") {
    auto request = Request<flwr::proto::PushObjectRequest>();
    request.set_run_id(run_id);
    request.set_object_id(object.id);
    request.set_object_content(*object.bytes);
    request.set_session_id(session);
    return fleet_.PushObject(Sign(), request);
  }
  // Announces the reply and uploads what the answer asks for.
  absl::Status PushAll(const PackedReply& reply) {
    const auto response = Push(reply);
    if (!response.ok()) return response.status();
    const uint64_t run_id = reply.request.messages_list(0).metadata().run_id();
    for (const wire::Object& object : reply.objects) {
      const auto& wanted = response->objects_to_push();
      if (std::find(wanted.begin(), wanted.end(), object.id) == wanted.end()) continue;
      const auto pushed = PushObject(run_id, object, response->session_id());
      if (!pushed.ok()) return pushed.status();
      if (!pushed->stored()) return absl::DataLossError(absl::StrCat("not stored: ", object.id));
    }
    return absl::OkStatus();
  }

  template <typename T>
  T Request() const {
    T request;
    request.mutable_node()->set_node_id(id);
    return request;
  }

  uint64_t id = 0;

 private:
  Fleet& fleet_;
  const absl::Time& now_;
  const NodeKey key_;
};

}  // namespace fedumm::link
