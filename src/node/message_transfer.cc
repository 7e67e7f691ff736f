#include "node/message_transfer.h"

#include <algorithm>
#include <memory>
#include <new>
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

constexpr absl::Duration kObjectTimeout = absl::Minutes(2);  // at first: 5 MiB on a slow line
constexpr absl::Duration kAvailableTimeout =
    absl::Hours(2);  // an announced object is uploaded by then
constexpr absl::Duration kAvailablePoll = absl::Seconds(10);  // the longest pause between two looks
// Of a call for many objects. One that takes longer is made again for those that are left.
constexpr absl::Duration kStreamTimeout = absl::Minutes(5);
constexpr absl::Duration kMaxTimeout = absl::Hours(2);  // 2 GB at 300 kB/s

// Not what a server of ours answers: it lacks the call, whatever it says.
bool LacksStreams(const absl::Status& status) {
  return absl::IsUnimplemented(status) || absl::IsUnknown(status) || absl::IsInternal(status);
}

// The objects that the server asks for, children first.
std::vector<wire::Object> Wanted(const flwr::proto::PushMessagesResponse& session,
                                 const wire::DeflatedMessage& parts) {
  const absl::flat_hash_set<absl::string_view> ids(session.objects_to_push().begin(),
                                                   session.objects_to_push().end());
  std::vector<wire::Object> objects;
  for (const wire::Object& object : parts.objects) {
    if (ids.contains(object.id)) objects.push_back(object);
  }
  return objects;
}

// INVALID_ARGUMENT if the server said no to the message itself.
absl::Status CheckAccepted(const flwr::proto::PushMessagesResponse& session,
                           const wire::DeflatedMessage& parts) {
  const auto result = session.results().find(parts.message_id);
  if (result == session.results().end() || result->second == 0) return absl::OkStatus();
  return absl::InvalidArgumentError("the server refused the reply");
}

absl::Status CheckSizes(const wire::DeflatedMessage& parts, const Limits& limits) {
  int64_t total_bytes = 0;
  for (const wire::Object& object : parts.objects) {
    const auto num_bytes = static_cast<int64_t>(object.bytes->size());
    total_bytes += num_bytes;
    if (num_bytes <= limits.max_object_bytes) continue;
    return absl::InvalidArgumentError(absl::StrCat("an object of the reply has ", num_bytes,
                                                   " bytes, limit ", limits.max_object_bytes));
  }
  if (total_bytes <= limits.max_message_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the reply has ", total_bytes, " bytes, limit ", limits.max_message_bytes));
}

absl::Status Refused(const std::string& id) {
  return absl::DataLossError(absl::StrCat("the server did not store object ", id));
}

}  // namespace

absl::StatusOr<Message> MessageTransfer::Fetch(Caller& caller, const Metadata& metadata,
                                               const flwr::proto::ObjectTree& tree) {
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<std::string> ids, wire::TreeIds(tree, limits_));
  const absl::flat_hash_set<absl::string_view> needed(ids.begin(), ids.end());
  absl::erase_if(held_, [&](const auto& entry) { return !needed.contains(entry.first); });
  if (in_streams_) FEDUMM_RETURN_IF_ERROR(PullStream(caller, metadata, ids));
  int64_t total_bytes = 0;
  for (const std::string& id : ids) {
    if (!held_.contains(id)) FEDUMM_RETURN_IF_ERROR(Pull(caller, metadata, id));
    total_bytes += static_cast<int64_t>(held_[id]->size());
    if (total_bytes > limits_.max_message_bytes) {
      held_.clear();
      return TooLarge();
    }
  }
  const auto find = [this](std::string_view id) -> wire::ObjectBytes {
    const auto found = held_.find(Text(id));
    return found == held_.end() ? nullptr : found->second;
  };
  try {
    FEDUMM_ASSIGN_OR_RETURN(Message message, wire::Inflate(metadata.message_id, find, limits_,
                                                           /*verified=*/true));
    message.metadata = metadata;
    return message;
  } catch (const std::bad_alloc&) {
    held_.clear();
    return absl::ResourceExhaustedError("out of memory");
  }
}

absl::Status MessageTransfer::TooLarge() const {
  return absl::InvalidArgumentError(
      absl::StrCat("message is larger than the limit of ", limits_.max_message_bytes, " bytes"));
}

absl::Status MessageTransfer::Keep(const std::string& id, std::string bytes) {
  if (static_cast<int64_t>(bytes.size()) > limits_.max_object_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("object ", id, " has too many bytes: ", bytes.size()));
  }
  if (Sha256Hex(bytes) != id) {
    return absl::DataLossError(absl::StrCat("the bytes of object ", id, " have another hash"));
  }
  held_[id] = std::make_shared<const std::string>(std::move(bytes));
  return absl::OkStatus();
}

absl::Status MessageTransfer::PullStream(Caller& caller, const Metadata& metadata,
                                         const std::vector<std::string>& ids) {
  absl::flat_hash_set<absl::string_view> missing;
  int64_t total_bytes = 0;
  for (const std::string& id : ids) {
    if (!held_.contains(id)) missing.insert(id);
  }
  if (missing.empty()) return absl::OkStatus();
  const auto keep = [&](const std::string& id, std::string bytes) -> absl::Status {
    total_bytes += static_cast<int64_t>(bytes.size());
    if (total_bytes > limits_.max_message_bytes) return TooLarge();
    if (missing.erase(id) == 0) {
      return absl::DataLossError(absl::StrCat("the server sent an object unasked: ", id));
    }
    return Keep(id, std::move(bytes));
  };
  const absl::Status pulled = caller.Retry(
      [&](const CallOptions& options) {
        proto::PullObjectsRequest request;
        request.set_node_id(metadata.dst_node_id);
        request.set_run_id(metadata.run_id);
        for (const std::string& id : ids) {
          if (missing.contains(id)) request.add_object_ids(id);
        }
        return caller.fleet().PullObjects(request, keep, options);
      },
      kStreamTimeout, kMaxTimeout);
  if (!LacksStreams(pulled)) return pulled;
  in_streams_ = false;
  return absl::OkStatus();
}

absl::Status MessageTransfer::Pull(Caller& caller, const Metadata& metadata,
                                   const std::string& id) {
  flwr::proto::PullObjectRequest request;
  request.mutable_node()->set_node_id(metadata.dst_node_id);
  request.set_run_id(metadata.run_id);
  request.set_object_id(id);
  const absl::Time give_up = caller.Now() + kAvailableTimeout;
  Backoff backoff(/*seed=*/metadata.dst_node_id, kAvailablePoll);
  while (true) {
    FEDUMM_ASSIGN_OR_RETURN(auto response, caller.Retry(
                                               [&](const CallOptions& options) {
                                                 return caller.fleet().PullObject(request, options);
                                               },
                                               kObjectTimeout, kMaxTimeout));
    if (!response.object_found()) {
      return absl::DataLossError(absl::StrCat("the server has no object ", id));
    }
    if (response.object_available()) {
      return Keep(id, std::move(*response.mutable_object_content()));
    }
    if (caller.Now() >= give_up) {
      return absl::DataLossError(absl::StrCat("object ", id, " never became available"));
    }
    FEDUMM_RETURN_IF_ERROR(caller.Wait(backoff.Next()));
  }
}

absl::StatusOr<int64_t> MessageTransfer::Push(Caller& caller, const Message& reply,
                                              const wire::DeflatedMessage& parts,
                                              absl::Duration runtime) {
  FEDUMM_RETURN_IF_ERROR(CheckSizes(parts, limits_));
  flwr::proto::PushMessagesRequest announcement;
  announcement.mutable_node()->set_node_id(reply.metadata.src_node_id);
  *announcement.add_messages_list() = wire::MessageToWire(reply);
  *announcement.add_message_object_trees() = parts.tree;
  announcement.add_clientapp_runtime_list(absl::ToDoubleSeconds(runtime));

  // An upload session that ran out, or a server that restarted, refuses objects until they are
  // announced again.
  constexpr int kTries = 2;
  absl::StatusOr<int64_t> pushed;
  for (int i = 0; i < kTries; ++i) {
    if (in_streams_) {
      pushed = caller.Retry(
          [&](const CallOptions& options) {
            return PushStream(caller.fleet(), options, announcement, parts);
          },
          kStreamTimeout, kMaxTimeout);
      if (LacksStreams(pushed.status())) in_streams_ = false;
    }
    if (!in_streams_) pushed = PushOneByOne(caller, announcement, parts);
    if (!absl::IsDataLoss(pushed.status())) break;
  }
  return pushed;
}

absl::StatusOr<int64_t> MessageTransfer::PushStream(
    FleetClient& fleet, const CallOptions& options,
    const flwr::proto::PushMessagesRequest& announcement,
    const wire::DeflatedMessage& parts) const {
  FEDUMM_ASSIGN_OR_RETURN(const auto session, fleet.PushMessages(announcement, options));
  FEDUMM_RETURN_IF_ERROR(CheckAccepted(session, parts));
  const std::vector<wire::Object> objects = Wanted(session, parts);
  if (objects.empty()) return 0;
  proto::PushObjectsRequest sender;
  sender.set_node_id(announcement.node().node_id());
  sender.set_run_id(announcement.messages_list(0).metadata().run_id());
  sender.set_session_id(session.session_id());
  FEDUMM_ASSIGN_OR_RETURN(const auto answer, fleet.PushObjects(sender, objects, options));
  if (answer.num_stored() != objects.size()) return Refused(answer.refused_object_id());
  return static_cast<int64_t>(objects.size());
}

absl::StatusOr<int64_t> MessageTransfer::PushOneByOne(
    Caller& caller, const flwr::proto::PushMessagesRequest& announcement,
    const wire::DeflatedMessage& parts) const {
  FEDUMM_ASSIGN_OR_RETURN(const auto session,
                          caller.Call(&FleetClient::PushMessages, announcement));
  FEDUMM_RETURN_IF_ERROR(CheckAccepted(session, parts));
  const std::vector<wire::Object> objects = Wanted(session, parts);
  for (const wire::Object& object : objects) {
    flwr::proto::PushObjectRequest push;
    *push.mutable_node() = announcement.node();
    push.set_run_id(announcement.messages_list(0).metadata().run_id());
    push.set_object_id(object.id);
    push.set_object_content(*object.bytes);
    push.set_session_id(session.session_id());
    FEDUMM_ASSIGN_OR_RETURN(
        const auto answer,
        caller.Retry(
            [&](const CallOptions& options) { return caller.fleet().PushObject(push, options); },
            kObjectTimeout, kMaxTimeout));
    if (!answer.stored()) return Refused(object.id);
  }
  return static_cast<int64_t>(objects.size());
}

}  // namespace fedumm
