#include "link/fleet.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "link/reply_rules.h"
#include "wire/object.h"
#include "wire/proto.h"

namespace fedumm::link {
namespace {

constexpr uint64_t kReconnectSeconds = 5;
constexpr uint32_t kRefused = 1;  // in PushMessagesResponse.results; 0 is accepted

constexpr size_t kMaxKeylessName = 4096;
constexpr int64_t kCallOverhead = int64_t{8} << 20;  // what is around an object in a call
constexpr double kSlowBytesPerSecond = 64 << 10;     // of a large upload, as of the HTTP server

// The key that a call names must be the key that signed it.
absl::Status CheckOwnKey(const Caller& caller, const std::string& public_key) {
  if (caller.public_key == public_key) return absl::OkStatus();
  return absl::UnauthenticatedError("the request names another key than the call's");
}

void AnswerEmpty(std::optional<HeldPulls::Pull> pull, Answers& answers) {
  if (!pull.has_value()) return;
  answers.Add([done = std::move(pull->done)] { done(flwr::proto::PullMessagesResponse()); });
}

Error NoBundle() {
  return {.code = ErrorCode::kInvalidFab,
          .reason = "the run has no app bundle, which Python nodes need (pass --fab)"};
}

struct ParsedReply {
  Metadata metadata;
  std::vector<std::string> object_ids;
};

absl::StatusOr<ParsedReply> ParseReply(const flwr::proto::Message& message,
                                       const flwr::proto::ObjectTree& tree, const Limits& limits) {
  ParsedReply reply;
  FEDUMM_ASSIGN_OR_RETURN(reply.metadata, wire::MetadataFromProto(message.metadata(), limits));
  if (message.has_content() == message.has_error()) {
    return absl::InvalidArgumentError("a message has content or an error, and not both");
  }
  if (message.content().items_size() > 0) {
    return absl::InvalidArgumentError("content must travel as objects");
  }
  FEDUMM_ASSIGN_OR_RETURN(reply.object_ids, wire::TreeIds(tree, limits));
  if (tree.object_id() != reply.metadata.message_id) {
    return absl::InvalidArgumentError("the message id is not that of the root object");
  }
  return reply;
}

// Below a message lies its RecordDict, then records, and below these arrays if there are any.
bool HasArrays(const flwr::proto::ObjectTree& message) {
  for (const flwr::proto::ObjectTree& content : message.children()) {
    for (const flwr::proto::ObjectTree& record : content.children()) {
      if (record.children_size() > 0) return true;
    }
  }
  return false;
}

}  // namespace

struct Fleet::Announcement {
  uint64_t node = 0;
  uint64_t run_id = 0;
  std::string message_id;
  std::string instruction_id;
  bool has_arrays = false;  // it may be large
  absl::StatusOr<ParsedReply> reply;
};

absl::Status Fleet::CheckServing() {
  MutexLock lock(state_.mu);
  return state_.stopping ? absl::UnavailableError("the server is stopping") : absl::OkStatus();
}

absl::StatusOr<std::string> Fleet::Identify(const Caller& caller, const std::string& public_key) {
  FEDUMM_RETURN_IF_ERROR(CheckServing());
  if (caller.keyless) {
    if (public_key.empty() || public_key.size() > kMaxKeylessName) {
      return absl::InvalidArgumentError("a node without keys needs a public key for its name");
    }
    return absl::StrCat(Text(kKeyless), public_key);
  }
  if (state_.options.known_keys_only) {
    MutexLock lock(state_.mu);
    FEDUMM_RETURN_IF_ERROR(state_.nodes.CheckMayRegister(caller.public_key));
  }
  FEDUMM_RETURN_IF_ERROR(state_.auth.Check(caller));
  FEDUMM_RETURN_IF_ERROR(CheckOwnKey(caller, public_key));
  return caller.public_key;
}

absl::Status Fleet::Admit(const Caller& caller, uint64_t node) {
  FEDUMM_RETURN_IF_ERROR(CheckServing());
  if (caller.keyless) {
    MutexLock lock(state_.mu);
    const std::optional<std::string_view> identity = state_.nodes.KeyOf(node);
    if (identity.has_value() && identity->starts_with(kKeyless)) return absl::OkStatus();
    return absl::UnauthenticatedError(absl::StrCat("no node without keys has the id ", node));
  }
  {
    MutexLock lock(state_.mu);
    FEDUMM_RETURN_IF_ERROR(state_.nodes.CheckOwner(caller.public_key, node));
  }
  FEDUMM_RETURN_IF_ERROR(state_.auth.Check(caller));
  Answers answers;
  MutexLock lock(state_.mu);
  FEDUMM_ASSIGN_OR_RETURN(const bool came_back,
                          state_.nodes.Readmit(caller.public_key, node, state_.options.timer()));
  if (came_back) {
    state_.nodes.SetAddress(node, caller.address);
    state_.Report(node, "is online, it joined before this server started", answers);
    state_.NotifyWaiters(answers);
  }
  return absl::OkStatus();
}

absl::StatusOr<flwr::proto::RegisterNodeFleetResponse> Fleet::RegisterNode(
    const Caller& caller, const flwr::proto::RegisterNodeFleetRequest& request) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string identity, Identify(caller, request.public_key()));
  flwr::proto::RegisterNodeFleetResponse response;
  MutexLock lock(state_.mu);
  FEDUMM_ASSIGN_OR_RETURN(const uint64_t node,
                          state_.nodes.Register(identity, state_.options.timer()));
  response.set_node_id(node);
  return response;
}

absl::StatusOr<flwr::proto::ActivateNodeResponse> Fleet::ActivateNode(
    const Caller& caller, const flwr::proto::ActivateNodeRequest& request) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string identity, Identify(caller, request.public_key()));
  flwr::proto::ActivateNodeResponse response;
  Answers answers;
  MutexLock lock(state_.mu);
  const std::optional<uint64_t> known = state_.nodes.Find(identity);
  const NodeRegistry::Presence presence =
      known.has_value() ? state_.nodes.PresenceOf(*known, state_.options.timer())
                        : NodeRegistry::Presence::kNever;
  FEDUMM_ASSIGN_OR_RETURN(
      const uint64_t node,
      state_.nodes.Activate(identity, request.heartbeat_interval(), state_.options.timer(),
                            NodeAuth::SignedAt(caller)));
  // The previous process with this key, if any, is replaced.
  AnswerEmpty(state_.pulls.Take(node), answers);
  state_.mailbox.Restart(node);
  ++state_.early_losses;  // with a shorter interval
  state_.nodes.SetAddress(node, caller.address);
  state_.Report(node,
                presence == NodeRegistry::Presence::kNever    ? "joined"
                : presence == NodeRegistry::Presence::kOnline ? "restarted"
                                                              : "is back",
                answers);
  state_.NotifyWaiters(answers);
  response.set_node_id(node);
  return response;
}

absl::StatusOr<flwr::proto::DeactivateNodeResponse> Fleet::DeactivateNode(
    const Caller& caller, const flwr::proto::DeactivateNodeRequest& request) {
  FEDUMM_RETURN_IF_ERROR(Admit(caller, request.node_id()));
  Answers answers;
  MutexLock lock(state_.mu);
  if (state_.nodes.Deactivate(request.node_id(), state_.options.timer(),
                              NodeAuth::SignedAt(caller))) {
    AnswerEmpty(state_.pulls.Take(request.node_id()), answers);
    state_.Report(request.node_id(), "left", answers);
  }
  return flwr::proto::DeactivateNodeResponse();
}

absl::StatusOr<flwr::proto::UnregisterNodeFleetResponse> Fleet::UnregisterNode(
    const Caller& caller, const flwr::proto::UnregisterNodeFleetRequest& request) {
  FEDUMM_RETURN_IF_ERROR(Admit(caller, request.node_id()));
  Answers answers;
  MutexLock lock(state_.mu);
  const absl::Status unregistered =
      state_.nodes.Unregister(request.node_id(), state_.options.timer());
  AnswerEmpty(state_.pulls.Take(request.node_id()), answers);
  state_.Report(request.node_id(), unregistered.ok() ? "unregistered" : "left", answers);
  ++state_.early_losses;
  state_.NotifyWaiters(answers);  // what it was asked will not be answered
  if (!unregistered.ok()) return unregistered;
  return flwr::proto::UnregisterNodeFleetResponse();
}

absl::StatusOr<flwr::proto::SendNodeHeartbeatResponse> Fleet::SendNodeHeartbeat(
    const Caller& caller, const flwr::proto::SendNodeHeartbeatRequest& request) {
  FEDUMM_RETURN_IF_ERROR(Admit(caller, request.node().node_id()));
  const uint64_t node = request.node().node_id();
  flwr::proto::SendNodeHeartbeatResponse response;
  Answers answers;
  MutexLock lock(state_.mu);
  const absl::Time now = state_.options.timer();
  const bool was_online = state_.nodes.IsOnline(node, now);
  const absl::Time was_gone_at = state_.nodes.GoneAt(node);
  FEDUMM_RETURN_IF_ERROR(
      state_.nodes.Heartbeat(node, request.heartbeat_interval(), now, NodeAuth::SignedAt(caller)));
  const bool is_shorter = state_.nodes.GoneAt(node) < was_gone_at;
  if (is_shorter) ++state_.early_losses;
  if (!was_online && state_.nodes.IsOnline(node, now)) ReportBack(caller, node, answers);
  if (is_shorter || !was_online) state_.NotifyWaiters(answers);
  response.set_success(true);
  return response;
}

void Fleet::PullMessages(const Caller& caller, const flwr::proto::PullMessagesRequest& request,
                         absl::Duration hold, uint64_t ticket, PullDone done) {
  const uint64_t node = request.node().node_id();
  if (absl::Status status = Admit(caller, node); !status.ok()) {
    done(std::move(status));
    return;
  }
  Answers answers;
  MutexLock lock(state_.mu);
  const absl::Time now = state_.options.timer();
  if (state_.nodes.ReactivateOnPull(node, now, NodeAuth::SignedAt(caller))) {
    ReportBack(caller, node, answers);
    state_.NotifyWaiters(answers);
  }
  const absl::Time before = state_.pulls.NextEnd();
  std::optional<HeldPulls::Pull> previous = state_.pulls.Hold(
      node,
      {.ticket = ticket, .until = now + hold, .done = std::move(done), .address = caller.address});
  if (previous.has_value()) {
    state_.CheckSharedKey(node, previous->address, caller.address, answers);
    AnswerEmpty(std::move(previous), answers);
  }
  state_.Deliver(node, answers);
  if (state_.stopping || hold <= absl::ZeroDuration()) {
    AnswerEmpty(state_.pulls.Take(node, ticket), answers);
  }
  if (state_.pulls.NextEnd() < before) state_.timer_changed.NotifyOne();
}

void Fleet::ReportBack(const Caller& caller, uint64_t node, Answers& answers) {
  state_.nodes.SetAddress(node, caller.address);
  state_.Report(node, "is back", answers);
}

void Fleet::CancelPull(uint64_t node, uint64_t ticket) {
  Answers answers;
  MutexLock lock(state_.mu);
  if (std::optional<HeldPulls::Pull> pull = state_.pulls.Take(node, ticket)) {
    answers.Add([done = std::move(pull->done)] { done(absl::CancelledError("the caller left")); });
    return;
  }
  state_.mailbox.TakeBack(node, ticket);
  state_.Deliver(node, answers);
}

absl::StatusOr<flwr::proto::PushMessagesResponse> Fleet::PushMessages(
    const Caller& caller, const flwr::proto::PushMessagesRequest& request) {
  FEDUMM_RETURN_IF_ERROR(Admit(caller, request.node().node_id()));
  return Push(ParseAnnouncement(request, state_.options.limits));
}

void Fleet::AnnounceReply(const Caller& caller, flwr::proto::PushMessagesRequest request,
                          PushDone done) {
  if (absl::Status status = Admit(caller, request.node().node_id()); !status.ok()) {
    done(std::move(status));
    return;
  }
  absl::StatusOr<Announcement> announcement = ParseAnnouncement(request, state_.options.limits);
  request.Clear();
  if (announcement.ok() && announcement->has_arrays) {
    const std::string id = announcement->instruction_id;
    Answers answers;
    MutexLock lock(state_.mu);
    const int64_t num_bytes = state_.mailbox.AwaitedBytes(announcement->node, id);
    const absl::Time now = state_.options.timer();
    if (num_bytes > 0 && !state_.stopping && !state_.gate.Enter(id, num_bytes, now)) {
      answers.Add(state_.gate.Hold(id, num_bytes, now,
                                   [this, announcement = *std::move(announcement),
                                    done = std::move(done)](absl::Status status) mutable {
                                     if (status.ok()) {
                                       done(Push(std::move(announcement)));
                                     } else {
                                       done(std::move(status));
                                     }
                                   }));
      state_.timer_changed.NotifyOne();
      return;
    }
  }
  done(Push(std::move(announcement)));
}

absl::StatusOr<Fleet::Announcement> Fleet::ParseAnnouncement(
    const flwr::proto::PushMessagesRequest& request, const Limits& limits) {
  if (request.messages_list_size() != 1 || request.message_object_trees_size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("one message and its object tree are expected, got ",
                     request.messages_list_size(), " and ", request.message_object_trees_size()));
  }
  const flwr::proto::Message& message = request.messages_list(0);
  const flwr::proto::ObjectTree& tree = request.message_object_trees(0);
  absl::StatusOr<ParsedReply> reply = ParseReply(message, tree, limits);
  return Announcement{.node = request.node().node_id(),
                      .run_id = message.metadata().run_id(),
                      .message_id = message.metadata().message_id(),
                      .instruction_id = message.metadata().reply_to_message_id(),
                      .has_arrays = reply.ok() && HasArrays(tree),
                      .reply = std::move(reply)};
}

absl::StatusOr<flwr::proto::PushMessagesResponse> Fleet::Push(
    absl::StatusOr<Announcement> announcement) {
  FEDUMM_RETURN_IF_ERROR(CheckServing());
  FEDUMM_RETURN_IF_ERROR(announcement.status());
  absl::StatusOr<ParsedReply>& reply = announcement->reply;

  flwr::proto::PushMessagesResponse response;
  response.mutable_reconnect()->set_reconnect(kReconnectSeconds);
  absl::StatusOr<Mailbox::Receipt> receipt;
  {
    Answers answers;
    MutexLock lock(state_.mu);
    FEDUMM_RETURN_IF_ERROR(state_.runs.Check(announcement->run_id));
    if (reply.ok()) {
      receipt = state_.mailbox.PushReply(announcement->node, reply->metadata,
                                         std::move(reply->object_ids), state_.options.timer(),
                                         state_.options.clock());
    } else {
      receipt = reply.status();
    }
    if (receipt.ok() && receipt->complete) {
      state_.NotifyWaiters(answers);
    }
    if (!receipt.ok()) {
      state_.gate.Leave(announcement->instruction_id);
      // The node does not try again, so the sender is told why.
      if (!absl::IsAlreadyExists(receipt.status()) &&
          state_.mailbox.FailReply(announcement->node, announcement->run_id,
                                   announcement->instruction_id, RefusedReply(receipt.status()))) {
        state_.NotifyWaiters(answers);
      }
    }
    state_.timer_changed.NotifyOne();
  }
  uint32_t& result = (*response.mutable_results())[announcement->message_id];
  if (!receipt.ok()) {
    // A second reply is ignored, as by Flower's own server.
    result = absl::IsAlreadyExists(receipt.status()) ? 0 : kRefused;
    Answers answers;
    MutexLock lock(state_.mu);
    state_.Warn(announcement->node,
                absl::StrCat("refused a reply in run ", announcement->run_id, ": ",
                             receipt.status().message()),
                answers);
    return response;
  }
  response.mutable_objects_to_push()->Add(receipt->to_push.begin(), receipt->to_push.end());
  response.set_session_id(receipt->session);
  return response;
}

absl::StatusOr<flwr::proto::GetRunResponse> Fleet::GetRun(
    const Caller& caller, const flwr::proto::GetRunRequest& request) {
  FEDUMM_RETURN_IF_ERROR(Admit(caller, request.node().node_id()));
  flwr::proto::GetRunResponse response;
  MutexLock lock(state_.mu);
  FEDUMM_ASSIGN_OR_RETURN(*response.mutable_run(), state_.runs.Get(request.run_id()));
  return response;
}

absl::StatusOr<flwr::proto::GetFabResponse> Fleet::GetFab(
    const Caller& caller, const flwr::proto::GetFabRequest& request) {
  FEDUMM_RETURN_IF_ERROR(Admit(caller, request.node().node_id()));
  std::shared_ptr<const Fab> fab;
  {
    Answers answers;
    MutexLock lock(state_.mu);
    FEDUMM_RETURN_IF_ERROR(state_.runs.Check(request.run_id()));
    fab = state_.runs.GetFab(request.run_id());
    if (fab == nullptr) {
      // A Python node drops the instruction without a reply if there is no bundle.
      if (state_.mailbox.FailOffered(request.node().node_id(), request.run_id(), NoBundle())) {
        state_.NotifyWaiters(answers);
      }
      // Any other error would end the node.
      return absl::PermissionDeniedError(
          absl::StrCat("run ", request.run_id(), " has no app bundle: its nodes bring their own"));
    }
  }
  if (request.hash_str() != fab->hash()) {
    return absl::InvalidArgumentError(absl::StrCat("the app bundle of run ", request.run_id(),
                                                   " has another hash: ", fab->hash()));
  }
  flwr::proto::GetFabResponse response;
  response.mutable_fab()->set_hash_str(fab->hash());
  response.mutable_fab()->set_content(fab->content());
  return response;
}

absl::StatusOr<flwr::proto::PushObjectResponse> Fleet::PushObject(
    const Caller& caller, const flwr::proto::PushObjectRequest& request) {
  return PushObject(caller, flwr::proto::PushObjectRequest(request));
}

absl::StatusOr<flwr::proto::PushObjectResponse> Fleet::PushObject(
    const Caller& caller, flwr::proto::PushObjectRequest&& request) {
  const Upload upload{.node = request.node().node_id(),
                      .run_id = request.run_id(),
                      .session = request.session_id()};
  FEDUMM_RETURN_IF_ERROR(Admit(caller, upload.node));
  FEDUMM_ASSIGN_OR_RETURN(const bool stored,
                          StoreUpload(state_, upload, request.object_id(),
                                      std::move(*request.mutable_object_content())));
  flwr::proto::PushObjectResponse response;
  response.set_stored(stored);
  return response;
}

int64_t Fleet::MaxUploadBytes(const Caller& caller, int64_t num_bytes) {
  const Limits& limits = state_.options.limits;
  std::optional<uint64_t> node;
  {
    MutexLock lock(state_.mu);
    node = state_.nodes.Find(caller.public_key);
    if (!node.has_value() || !state_.nodes.IsInstructed(*node)) return limits.max_call_bytes;
  }
  if (!state_.auth.CheckHead(caller).ok()) return limits.max_call_bytes;
  const absl::Duration upload = state_.options.session_timeout +
                                absl::Seconds(static_cast<double>(num_bytes) / kSlowBytesPerSecond);
  Answers answers;
  MutexLock lock(state_.mu);
  state_.mailbox.ExtendUploads(*node, state_.options.timer() + upload);
  const int64_t max_bytes =
      std::max(limits.max_call_bytes, limits.max_object_bytes + kCallOverhead);
  if (num_bytes <= max_bytes) return max_bytes;
  // The call will be refused unread, so the sender is told why.
  const absl::Status refusal = absl::ResourceExhaustedError(
      absl::StrCat("an object of some ", num_bytes, " bytes, limit ", limits.max_object_bytes));
  state_.Warn(*node, absl::StrCat("refused ", refusal.message()), answers);
  if (state_.mailbox.FailUploads(*node, RefusedReply(refusal))) state_.NotifyWaiters(answers);
  return max_bytes;
}

absl::StatusOr<ObjectPush> Fleet::PushObjects(const Caller& caller, Upload upload) {
  FEDUMM_RETURN_IF_ERROR(Admit(caller, upload.node));
  return ObjectPush(state_, std::move(upload));
}

absl::StatusOr<ObjectPull> Fleet::PullObjects(const Caller& caller,
                                              const proto::PullObjectsRequest& request) {
  FEDUMM_RETURN_IF_ERROR(Admit(caller, request.node_id()));
  if (request.object_ids_size() > state_.options.limits.max_objects_per_message) {
    return absl::InvalidArgumentError(
        absl::StrCat("too many objects are asked for: ", request.object_ids_size()));
  }
  return ObjectPull(state_, request.node_id(), request.run_id(),
                    {request.object_ids().begin(), request.object_ids().end()});
}

absl::StatusOr<wire::ObjectBytes> Fleet::FindObject(const Caller& caller,
                                                    const flwr::proto::PullObjectRequest& request) {
  const uint64_t node = request.node().node_id();
  FEDUMM_RETURN_IF_ERROR(Admit(caller, node));
  MutexLock lock(state_.mu);
  FEDUMM_RETURN_IF_ERROR(state_.runs.Check(request.run_id()));
  if (!state_.mailbox.MayPullObject(node, request.run_id(), request.object_id(),
                                    state_.options.timer())) {
    return wire::ObjectBytes();
  }
  return state_.objects.Find(request.object_id());
}

absl::StatusOr<flwr::proto::PullObjectResponse> Fleet::PullObject(
    const Caller& caller, const flwr::proto::PullObjectRequest& request) {
  FEDUMM_ASSIGN_OR_RETURN(const wire::ObjectBytes bytes, FindObject(caller, request));
  flwr::proto::PullObjectResponse response;
  if (bytes != nullptr) {
    response.set_object_found(true);
    response.set_object_available(true);
    response.set_object_content(*bytes);
  }
  return response;
}

absl::StatusOr<flwr::proto::ConfirmMessageReceivedResponse> Fleet::ConfirmMessageReceived(
    const Caller& caller, const flwr::proto::ConfirmMessageReceivedRequest& request) {
  FEDUMM_RETURN_IF_ERROR(Admit(caller, request.node().node_id()));
  MutexLock lock(state_.mu);
  FEDUMM_RETURN_IF_ERROR(state_.runs.Check(request.run_id()));
  state_.mailbox.Confirm(request.node().node_id(), request.run_id(), request.message_object_id());
  return flwr::proto::ConfirmMessageReceivedResponse();
}

void Fleet::CountTraffic(uint64_t node, int64_t bytes_up, int64_t bytes_down) {
  MutexLock lock(state_.mu);
  state_.nodes.CountTraffic(node, bytes_up, bytes_down);
}

void Fleet::Tick() {
  Answers answers;
  MutexLock lock(state_.mu);
  const absl::Time now = state_.options.timer();
  while (state_.pulls.NextEnd() <= now) {
    AnswerEmpty(state_.pulls.Take(state_.pulls.NextNode()), answers);
  }
  for (const uint64_t node : state_.mailbox.Expire(now)) state_.Deliver(node, answers);
  const std::vector<uint64_t> lost = state_.nodes.TakeLost(now);
  for (const uint64_t node : lost) {
    state_.Report(node, "is lost, its heartbeats stopped", answers);
  }
  if (!lost.empty()) state_.NotifyWaiters(answers);
  state_.ExpireApps(now, answers);
  state_.AdmitHeldReplies(answers);
}

void Fleet::RunTimers() {
  while (true) {
    Tick();
    MutexLock lock(state_.mu);
    if (state_.stopping) return;
    const absl::Time due =
        std::min({state_.pulls.NextEnd(), state_.mailbox.next_due(), state_.NextAppsDue(),
                  state_.gate.next_due(), state_.nodes.NextLeaseEnd()});
    const absl::Time now = state_.options.timer();
    if (due > now) state_.timer_changed.WaitFor(state_.mu, due - now);
  }
}

void Fleet::Stop() {
  Answers answers;
  MutexLock lock(state_.mu);
  state_.stopping = true;
  for (const uint64_t node : state_.pulls.Nodes()) AnswerEmpty(state_.pulls.Take(node), answers);
  state_.StopApps(answers);
  for (std::function<void()>& go : state_.gate.TakeAll()) answers.Add(std::move(go));
  state_.NotifyWaiters(answers);
  state_.timer_changed.NotifyAll();
}

}  // namespace fedumm::link
