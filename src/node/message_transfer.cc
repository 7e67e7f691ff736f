#include "node/message_transfer.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "wire/proto.h"

namespace fedumm {
namespace {

constexpr absl::Duration kObjectTimeout = absl::Minutes(2);  // 5 MiB on a slow line
constexpr absl::Duration kAvailableTimeout =
    absl::Hours(2);  // an announced object is uploaded by then
constexpr absl::Duration kAvailablePoll = absl::Seconds(10);  // the longest pause between two looks

}  // namespace

absl::StatusOr<Message> MessageTransfer::Fetch(Caller& caller, const Metadata& metadata,
                                               const flwr::proto::ObjectTree& tree) {
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<std::string> ids, wire::TreeIds(tree, limits_));
  const absl::flat_hash_set<absl::string_view> needed(ids.begin(), ids.end());
  absl::erase_if(held_, [&](const auto& entry) { return !needed.contains(entry.first); });
  int64_t total_bytes = 0;
  for (const std::string& id : ids) {
    wire::ObjectBytes& bytes = held_[id];
    if (bytes == nullptr) {
      absl::StatusOr<wire::ObjectBytes> pulled = Pull(caller, metadata, id);
      if (!pulled.ok()) {
        held_.erase(id);
        return pulled.status();
      }
      bytes = *std::move(pulled);
    }
    total_bytes += static_cast<int64_t>(bytes->size());
    if (total_bytes > limits_.max_message_bytes) {
      held_.clear();
      return absl::InvalidArgumentError(absl::StrCat("message is larger than the limit of ",
                                                     limits_.max_message_bytes, " bytes"));
    }
  }
  const auto find = [this](std::string_view id) -> wire::ObjectBytes {
    const auto found = held_.find(Text(id));
    return found == held_.end() ? nullptr : found->second;
  };
  FEDUMM_ASSIGN_OR_RETURN(Message message, wire::Inflate(metadata.message_id, find, limits_,
                                                         /*verified=*/true));
  message.metadata = metadata;
  return message;
}

absl::StatusOr<wire::ObjectBytes> MessageTransfer::Pull(Caller& caller, const Metadata& metadata,
                                                        const std::string& id) const {
  flwr::proto::PullObjectRequest request;
  request.mutable_node()->set_node_id(metadata.dst_node_id);
  request.set_run_id(metadata.run_id);
  request.set_object_id(id);
  const absl::Time give_up = caller.Now() + kAvailableTimeout;
  Backoff backoff(/*seed=*/metadata.dst_node_id, kAvailablePoll);
  while (true) {
    FEDUMM_ASSIGN_OR_RETURN(auto response,
                            caller.Call(&FleetClient::PullObject, request, kObjectTimeout));
    if (!response.object_found()) {
      return absl::DataLossError(absl::StrCat("the server has no object ", id));
    }
    if (response.object_available()) {
      std::string content = std::move(*response.mutable_object_content());
      if (static_cast<int64_t>(content.size()) > limits_.max_object_bytes) {
        return absl::InvalidArgumentError(
            absl::StrCat("object ", id, " has too many bytes: ", content.size()));
      }
      if (Sha256Hex(content) != id) {
        return absl::DataLossError(absl::StrCat("the bytes of object ", id, " have another hash"));
      }
      return std::make_shared<const std::string>(std::move(content));
    }
    if (caller.Now() >= give_up) {
      return absl::DataLossError(absl::StrCat("object ", id, " never became available"));
    }
    FEDUMM_RETURN_IF_ERROR(caller.Wait(backoff.Next()));
  }
}

absl::StatusOr<int64_t> MessageTransfer::Push(Caller& caller, const Message& reply,
                                              const wire::DeflatedMessage& parts,
                                              absl::Duration runtime) const {
  flwr::proto::PushMessagesRequest announcement;
  announcement.mutable_node()->set_node_id(reply.metadata.src_node_id);
  *announcement.add_messages_list() = wire::MessageToWire(reply);
  *announcement.add_message_object_trees() = parts.tree;
  announcement.add_clientapp_runtime_list(absl::ToDoubleSeconds(runtime));

  // An upload session that ran out, or a server that restarted, refuses objects until they are
  // announced again.
  constexpr int kTries = 2;
  std::string refused;
  for (int i = 0; i < kTries; ++i) {
    refused.clear();
    FEDUMM_ASSIGN_OR_RETURN(const auto session,
                            caller.Call(&FleetClient::PushMessages, announcement));
    const absl::flat_hash_set<absl::string_view> wanted(session.objects_to_push().begin(),
                                                        session.objects_to_push().end());
    int64_t num_pushed = 0;
    for (const wire::Object& object : parts.objects) {
      if (!wanted.contains(object.id)) continue;
      flwr::proto::PushObjectRequest push;
      push.mutable_node()->set_node_id(reply.metadata.src_node_id);
      push.set_run_id(reply.metadata.run_id);
      push.set_object_id(object.id);
      push.set_object_content(*object.bytes);
      push.set_session_id(session.session_id());
      FEDUMM_ASSIGN_OR_RETURN(const auto answer,
                              caller.Call(&FleetClient::PushObject, push, kObjectTimeout));
      if (!answer.stored()) {
        refused = object.id;
        break;
      }
      ++num_pushed;
    }
    if (refused.empty()) return num_pushed;
  }
  return absl::DataLossError(absl::StrCat("the server did not store object ", refused));
}

}  // namespace fedumm
