#include "link/runtime.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "link/reply_rules.h"
#include "wire/object.h"
#include "wire/proto.h"

namespace fedumm::link {
namespace {

constexpr absl::Duration kHeartbeatTimeout = absl::Seconds(60);
constexpr const char* kServerAppTask = "flwr-serverapp";
constexpr size_t kMostDetails = 4096;  // bytes of text about a run's end

// The instruction as the mailbox takes it. INVALID_ARGUMENT with the reason if it must not be sent.
absl::StatusOr<Mailbox::Instruction> ParseInstruction(const flwr::proto::Message& message,
                                                      const flwr::proto::ObjectTree& tree,
                                                      const Limits& limits, absl::Time now) {
  Mailbox::Instruction instruction;
  FEDUMM_ASSIGN_OR_RETURN(instruction.metadata,
                          wire::MetadataFromProto(message.metadata(), limits));
  FEDUMM_RETURN_IF_ERROR(CheckInstruction(instruction.metadata, now));
  if (message.has_content() == message.has_error()) {
    return absl::InvalidArgumentError("a message has content or an error, and not both");
  }
  if (message.content().items_size() > 0) {
    return absl::InvalidArgumentError("content must travel as objects");
  }
  FEDUMM_ASSIGN_OR_RETURN(instruction.object_ids, wire::TreeIds(tree, limits));
  if (tree.object_id() != instruction.metadata.message_id) {
    return absl::InvalidArgumentError("the message id is not that of the root object");
  }
  instruction.message = message;
  instruction.tree = tree;
  return instruction;
}

// Adds what the object's header names below it. `budget` is how many nodes the tree may still get.
absl::Status AddChildren(const store::ObjectStore& objects, const Limits& limits, int64_t depth,
                         int64_t& budget, flwr::proto::ObjectTree& tree) {
  if (depth > limits.max_tree_depth || --budget < 0) {
    return absl::InvalidArgumentError("the objects are nested too deeply or too many");
  }
  const wire::ObjectBytes bytes = objects.Find(tree.object_id());
  if (bytes == nullptr) return absl::DataLossError("an object of the reply is missing");
  FEDUMM_ASSIGN_OR_RETURN(const wire::ObjectView object, wire::ParseObject(*bytes, limits));
  for (const std::string_view child : object.children) {
    flwr::proto::ObjectTree& next = *tree.add_children();
    next.set_object_id(std::string(child));
    FEDUMM_RETURN_IF_ERROR(AddChildren(objects, limits, depth + 1, budget, next));
  }
  return absl::OkStatus();
}

// The reply as it travels, from the objects themselves: a ServerApp believes those, so they must
// say what the node was checked for when it announced the reply.
absl::Status ReadReply(const store::ObjectStore& objects, const Limits& limits,
                       const Metadata& metadata, TakenReplies::Content& reply) {
  reply.tree.set_object_id(metadata.message_id);
  int64_t budget = limits.max_objects_per_message;
  FEDUMM_RETURN_IF_ERROR(AddChildren(objects, limits, 1, budget, reply.tree));
  const wire::ObjectBytes root = objects.Find(metadata.message_id);
  FEDUMM_ASSIGN_OR_RETURN(const wire::ObjectView object, wire::ParseObject(*root, limits));
  if (object.type != "Message" ||
      !reply.message.ParseFromArray(object.body.data(), static_cast<int>(object.body.size()))) {
    return absl::InvalidArgumentError("the root object is no message");
  }
  reply.message.mutable_metadata()->set_message_id(metadata.message_id);
  FEDUMM_ASSIGN_OR_RETURN(const Metadata inner,
                          wire::MetadataFromProto(reply.message.metadata(), limits));
  if (inner != metadata) {
    return absl::InvalidArgumentError("the objects name another message than was announced");
  }
  if (reply.message.has_error() != reply.tree.children().empty()) {
    return absl::InvalidArgumentError("a message has content or an error, and not both");
  }
  if (!reply.message.has_error()) reply.message.mutable_content();
  return absl::OkStatus();
}

}  // namespace

void Runtime::AcquireTask(const flwr::proto::AcquireTaskRequest& request, absl::Duration hold,
                          uint64_t ticket, AcquireDone done) {
  const auto& types = request.supported_task_types();
  if (std::find(types.begin(), types.end(), kServerAppTask) == types.end()) {
    done(flwr::proto::AcquireTaskResponse());
    return;
  }
  Answers answers;
  MutexLock lock(state_.mu);
  const absl::Time now = state_.options.timer();
  state_.apps.acquires[ticket] = {.until = now + hold, .done = std::move(done)};
  if (state_.stopping) {
    state_.StopApps(answers);
  } else {
    state_.ExpireApps(now, answers);
  }
  state_.timer_changed.NotifyOne();
}

void Runtime::CancelAcquire(uint64_t ticket) {
  AcquireDone done;  // destroyed without the lock
  Answers answers;
  MutexLock lock(state_.mu);
  if (const auto it = state_.apps.acquires.find(ticket); it != state_.apps.acquires.end()) {
    done = std::move(it->second.done);
    state_.apps.acquires.erase(it);
  }
  const std::optional<uint64_t> run_id = state_.apps.tokens.FindTicket(ticket);
  if (!run_id.has_value() || !state_.runs.Requeue(*run_id)) return;
  state_.apps.tokens.Revoke(*run_id);
  state_.OfferRuns(answers);
}

absl::StatusOr<uint64_t> Runtime::Admit(std::string_view token) {
  if (state_.stopping) return absl::UnavailableError("the server is stopping");
  const std::optional<uint64_t> run_id = state_.apps.tokens.Find(token);
  if (!run_id.has_value()) return absl::UnauthenticatedError("the task token is not valid");
  return *run_id;
}

absl::StatusOr<uint64_t> Runtime::AdmitObjectCall(std::string_view token, uint64_t node,
                                                  uint64_t run_id) {
  MutexLock lock(state_.mu);
  FEDUMM_ASSIGN_OR_RETURN(const uint64_t own_run_id, Admit(token));
  if (node != kSuperLinkNodeId) {
    return absl::FailedPreconditionError(absl::StrCat("the node id must be 1: ", node));
  }
  if (run_id != own_run_id) {
    return absl::PermissionDeniedError(absl::StrCat("the token is not of run ", run_id));
  }
  return own_run_id;
}

bool Runtime::Knows(std::string_view token) {
  MutexLock lock(state_.mu);
  return Admit(token).ok();
}

absl::StatusOr<flwr::proto::SendTaskHeartbeatResponse> Runtime::SendTaskHeartbeat(
    std::string_view token, const flwr::proto::SendTaskHeartbeatRequest& /*request*/) {
  MutexLock lock(state_.mu);
  FEDUMM_ASSIGN_OR_RETURN(const uint64_t run_id, Admit(token));
  state_.apps.tokens.Renew(run_id, state_.options.timer() + kHeartbeatTimeout);
  flwr::proto::SendTaskHeartbeatResponse response;
  response.set_success(true);
  return response;
}

absl::StatusOr<flwr::proto::PullTaskInputResponse> Runtime::PullTaskInput(
    std::string_view token, const flwr::proto::PullTaskInputRequest& /*request*/) {
  flwr::proto::PullTaskInputResponse response;
  std::shared_ptr<const Fab> fab;
  {
    MutexLock lock(state_.mu);
    FEDUMM_ASSIGN_OR_RETURN(const uint64_t run_id, Admit(token));
    fab = state_.runs.GetFab(run_id);
    // A repeated call of a process that missed the answer finds its run running already.
    state_.runs.Activate(run_id, state_.options.clock());
    if (fab == nullptr || !state_.runs.Check(run_id).ok()) {
      return absl::FailedPreconditionError(absl::StrCat("run ", run_id, " cannot be started"));
    }
    state_.apps.tokens.Renew(run_id, state_.options.timer() + kHeartbeatTimeout);
    *response.mutable_run() = *state_.runs.Find(run_id);
  }
  response.set_task_id(response.run().primary_task_id());
  flwr::proto::Context& context = *response.mutable_context();
  context.set_run_id(response.run().run_id());
  context.set_node_id(kSuperLinkNodeId);
  context.mutable_state();  // present, though empty
  context.set_series_id(response.run().series_id());
  response.mutable_fab()->set_hash_str(fab->hash());
  response.mutable_fab()->set_content(fab->content());
  return response;
}

absl::StatusOr<flwr::proto::PushTaskOutputResponse> Runtime::PushTaskOutput(
    std::string_view token, const flwr::proto::PushTaskOutputRequest& request) {
  const std::string& sub_status = request.sub_status();
  if (sub_status != kCompleted && sub_status != kFailed && sub_status != kStopped) {
    return absl::InvalidArgumentError("the sub-status must be completed, failed or stopped");
  }
  std::string details = request.details();
  if (details.size() > kMostDetails) details = "(the reason is too long to be kept)";
  Answers answers;
  MutexLock lock(state_.mu);
  FEDUMM_ASSIGN_OR_RETURN(const uint64_t run_id, Admit(token));
  if (!state_.FinishRun(run_id, sub_status, details, answers)) {
    Log()->warn("run {} cannot be {}: it never ran", run_id, sub_status);
  }
  return flwr::proto::PushTaskOutputResponse();
}

absl::StatusOr<flwr::proto::PushLogsResponse> Runtime::PushLogs(
    std::string_view token, const flwr::proto::PushLogsRequest& request) {
  std::string text;
  for (const std::string& log : request.logs()) text += log;
  Answers answers;
  MutexLock lock(state_.mu);
  FEDUMM_ASSIGN_OR_RETURN(const uint64_t run_id, Admit(token));
  state_.apps.logs.Add(run_id, std::move(text), state_.options.clock());
  state_.WakeLogReaders(run_id, answers);
  return flwr::proto::PushLogsResponse();
}

absl::StatusOr<flwr::proto::GetNodesResponse> Runtime::GetNodes(
    std::string_view token, const flwr::proto::GetNodesRequest& /*request*/) {
  flwr::proto::GetNodesResponse response;
  MutexLock lock(state_.mu);
  FEDUMM_RETURN_IF_ERROR(Admit(token).status());
  for (const uint64_t node : state_.nodes.Online(state_.options.timer())) {
    flwr::proto::NodeInfo& info = *response.add_nodes();
    info.set_node_id(node);
    info.set_status("online");
  }
  return response;
}

absl::StatusOr<flwr::proto::PushAppMessagesResponse> Runtime::PushMessages(
    std::string_view token, const flwr::proto::PushAppMessagesRequest& request) {
  const int count = request.messages_list_size();
  if (count == 0 || count != request.message_object_trees_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("messages and their object trees are expected, got ", count, " and ",
                     request.message_object_trees_size()));
  }
  flwr::proto::PushAppMessagesResponse response;
  std::vector<Mailbox::Instruction> instructions;
  for (int i = 0; i < count; ++i) {
    absl::StatusOr<Mailbox::Instruction> instruction =
        ParseInstruction(request.messages_list(i), request.message_object_trees(i),
                         state_.options.limits, state_.options.clock());
    response.add_message_ids(instruction.ok() ? instruction->metadata.message_id : "");
    if (instruction.ok()) {
      instructions.push_back(*std::move(instruction));
    } else {
      Log()->warn("refused an instruction of an app: {}",
                  Printable(instruction.status().message()));
    }
  }
  Answers answers;
  MutexLock lock(state_.mu);
  FEDUMM_ASSIGN_OR_RETURN(const uint64_t run_id, Admit(token));
  FEDUMM_RETURN_IF_ERROR(state_.runs.Check(run_id));
  for (const flwr::proto::Message& message : request.messages_list()) {
    if (message.metadata().run_id() != run_id) {
      return absl::PermissionDeniedError(
          absl::StrCat("a message is of run ", message.metadata().run_id(), ", not ", run_id));
    }
  }
  std::set<std::string> refused;
  std::erase_if(instructions, [&](const Mailbox::Instruction& instruction)
                                  ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mu) {
                                    if (state_.nodes.IsRegistered(instruction.metadata.dst_node_id))
                                      return false;
                                    refused.insert(instruction.metadata.message_id);
                                    return true;
                                  });
  for (std::string& id : *response.mutable_message_ids()) {
    if (refused.contains(id)) id.clear();
  }
  Mailbox::Upload upload =
      state_.mailbox.Announce(run_id, std::move(instructions), state_.options.timer());
  for (const uint64_t node : upload.ready) state_.Deliver(node, answers);
  response.mutable_objects_to_push()->Add(upload.to_push.begin(), upload.to_push.end());
  response.set_session_id(upload.session);
  state_.timer_changed.NotifyOne();
  return response;
}

void Runtime::PullMessages(std::string_view token,
                           const flwr::proto::PullAppMessagesRequest& request, absl::Duration hold,
                           uint64_t ticket, AppPullDone done) {
  absl::StatusOr<uint64_t> run_id;
  {
    Answers answers;
    MutexLock lock(state_.mu);
    run_id = Admit(token);
    if (run_id.ok()) {
      const absl::Time now = state_.options.timer();
      HostedApps::Pull pull;
      pull.run_id = *run_id;
      pull.pending = {request.message_ids().begin(), request.message_ids().end()};
      std::erase_if(
          pull.pending, [&](const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mu) {
            const absl::Time gone_at = state_.nodes.GoneAt(state_.mailbox.Destination(id));
            return state_.apps.replies.Find(*run_id, id) != nullptr ||
                   !state_.mailbox.Pending(*run_id, id, gone_at, now).has_value();
          });
      pull.num_asked = static_cast<size_t>(request.message_ids_size());
      pull.all = {pull.pending.begin(), pull.pending.end()};
      pull.until = now + hold;
      pull.ready = [this, run_id = *run_id, done,
                    ids = std::vector<std::string>(request.message_ids().begin(),
                                                   request.message_ids().end())] {
        done(TakeReplies(run_id, ids));
      };
      state_.apps.pulls[ticket] = std::move(pull);
      state_.NotifyWaiters(answers);
    }
  }
  if (!run_id.ok()) done(run_id.status());
}

void Runtime::CancelPull(uint64_t ticket) {
  std::function<void()> ready;  // destroyed without the lock
  MutexLock lock(state_.mu);
  const auto it = state_.apps.pulls.find(ticket);
  if (it == state_.apps.pulls.end()) return;
  ready = std::move(it->second.ready);
  state_.apps.pulls.erase(it);
}

flwr::proto::PullAppMessagesResponse Runtime::TakeReplies(
    uint64_t run_id, const std::vector<std::string>& instructions) {
  std::vector<Mailbox::Outcome> outcomes;
  {
    MutexLock lock(state_.mu);
    if (state_.runs.IsFinished(run_id)) return {};
    const absl::Time now = state_.options.timer();
    for (const std::string& id : instructions) {
      if (state_.apps.replies.Find(run_id, id) != nullptr) continue;
      const absl::Time gone_at = state_.nodes.GoneAt(state_.mailbox.Destination(id));
      Mailbox::Outcome outcome = state_.mailbox.Take(run_id, id, gone_at, now);
      if (outcome.reply.has_value() || outcome.error.has_value()) {
        outcomes.push_back(std::move(outcome));
      }
    }
  }
  std::vector<std::pair<std::string, TakenReplies::Reply>> replies;
  for (Mailbox::Outcome& outcome : outcomes) {
    const std::string id = outcome.instruction.message_id;
    replies.emplace_back(id, ToReply(std::move(outcome)));
  }
  std::vector<std::shared_ptr<const TakenReplies::Content>> given;
  {
    MutexLock lock(state_.mu);
    const bool over = state_.runs.IsFinished(run_id);
    for (auto& [id, reply] : replies) {
      if (over) {
        state_.objects.Release(reply.object_ids);
      } else {
        state_.apps.replies.Add(run_id, id, std::move(reply));
      }
    }
    std::set<std::string_view> ids;
    for (const std::string& id : instructions) {
      const TakenReplies::Reply* const reply = state_.apps.replies.Find(run_id, id);
      if (reply != nullptr && ids.insert(id).second) given.push_back(reply->content);
    }
  }
  flwr::proto::PullAppMessagesResponse response;
  for (const std::shared_ptr<const TakenReplies::Content>& content : given) {
    *response.add_messages_list() = content->message;
    *response.add_message_object_trees() = content->tree;
  }
  return response;
}

TakenReplies::Reply Runtime::ToReply(Mailbox::Outcome outcome) {
  TakenReplies::Content content;
  if (outcome.reply.has_value()) {
    const absl::Status status =
        ReadReply(state_.objects, state_.options.limits, *outcome.reply, content);
    if (status.ok()) {
      return {.content = std::make_shared<const TakenReplies::Content>(std::move(content)),
              .object_ids = std::move(outcome.reply_objects)};
    }
    state_.objects.Release(outcome.reply_objects);
    Log()->warn("the reply of node {} in run {} is malformed: {}", outcome.reply->src_node_id,
                outcome.reply->run_id, Printable(status.message()));
    outcome.error = Error{.code = ErrorCode::kReplyMessageUnavailable,
                          .reason = absl::StrCat("malformed reply: ", status.message())};
  }
  Message error =
      ErrorReply(outcome.instruction, *std::move(outcome.error), state_.options.clock());
  error.metadata.src_node_id = kSuperLinkNodeId;  // as Flower's server, which made it
  if (error.metadata.message_type.empty()) error.metadata.message_type = "system";
  wire::DeflatedMessage deflated = wire::Deflater().Deflate(error);
  error.metadata.message_id = deflated.message_id;
  TakenReplies::Reply reply;
  for (const wire::Object& object : deflated.objects) {
    state_.objects.Add(object);
    reply.object_ids.push_back(object.id);
  }
  content.message = wire::MessageToWire(error);
  content.tree = std::move(deflated.tree);
  reply.content = std::make_shared<const TakenReplies::Content>(std::move(content));
  return reply;
}

absl::StatusOr<flwr::proto::PushObjectResponse> Runtime::PushObject(
    std::string_view token, flwr::proto::PushObjectRequest request) {
  FEDUMM_ASSIGN_OR_RETURN(const uint64_t run_id,
                          AdmitObjectCall(token, request.node().node_id(), request.run_id()));
  const auto num_bytes = static_cast<int64_t>(request.object_content().size());
  if (state_.objects.num_bytes() + num_bytes > state_.options.limits.max_stored_bytes) {
    return absl::UnavailableError("the server holds all it may, try again later");
  }
  absl::Status stored;
  {
    MutexLock lock(state_.mu);
    stored = state_.mailbox.CheckInstructionUpload(run_id, request.object_id(),
                                                   request.session_id(), num_bytes);
  }
  if (stored.ok()) {
    stored = state_.objects.PutChecked(
        request.object_id(), std::move(*request.mutable_object_content()), state_.options.limits);
  }
  flwr::proto::PushObjectResponse response;
  response.set_stored(stored.ok());
  if (!stored.ok()) {
    Log()->warn("refused an object of the app of run {}: {}", run_id, Printable(stored.message()));
    return response;
  }
  Answers answers;
  MutexLock lock(state_.mu);
  for (const uint64_t node : state_.mailbox.InstructionUploaded(
           run_id, request.object_id(), num_bytes, state_.options.timer())) {
    state_.Deliver(node, answers);
  }
  return response;
}

absl::StatusOr<flwr::proto::PullObjectResponse> Runtime::PullObject(
    std::string_view token, const flwr::proto::PullObjectRequest& request) {
  FEDUMM_ASSIGN_OR_RETURN(const uint64_t run_id,
                          AdmitObjectCall(token, request.node().node_id(), request.run_id()));
  wire::ObjectBytes bytes;
  {
    MutexLock lock(state_.mu);
    if (state_.apps.replies.MayPullObject(run_id, request.object_id())) {
      bytes = state_.objects.Find(request.object_id());
    }
  }
  flwr::proto::PullObjectResponse response;
  if (bytes != nullptr) {
    response.set_object_found(true);
    response.set_object_available(true);
    response.set_object_content(*bytes);
  }
  return response;
}

absl::StatusOr<flwr::proto::ConfirmMessageReceivedResponse> Runtime::ConfirmMessageReceived(
    std::string_view token, const flwr::proto::ConfirmMessageReceivedRequest& request) {
  FEDUMM_ASSIGN_OR_RETURN(const uint64_t run_id,
                          AdmitObjectCall(token, request.node().node_id(), request.run_id()));
  MutexLock lock(state_.mu);
  state_.objects.Release(state_.apps.replies.Confirm(run_id, request.message_object_id()));
  return flwr::proto::ConfirmMessageReceivedResponse();
}

}  // namespace fedumm::link
