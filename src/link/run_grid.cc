#include "link/run_grid.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <optional>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "link/reply_rules.h"
#include "wire/object.h"
#include "wire/proto.h"

namespace fedumm::link {
namespace {

absl::Status CheckOwnInstruction(const Message& message) {
  if (!message.content.has_value() || message.has_error()) {
    return absl::InvalidArgumentError("an instruction needs content");
  }
  if (message.metadata.message_type.empty()) {
    return absl::InvalidArgumentError("an instruction needs a message type");
  }
  if (!(std::isfinite(message.metadata.ttl) && message.metadata.ttl > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("an instruction's ttl must be positive: ", message.metadata.ttl));
  }
  return absl::OkStatus();
}

// Replies are given to the application in batches of at most this many bytes, or one by one.
constexpr int64_t kMaxBatchBytes = int64_t{8} << 20;

// The objects of a reply while it is put together. Chunks go with their last use: an array that had
// to be copied, to be aligned, then does not take twice its memory.
class ReplyObjects {
 public:
  ReplyObjects(const store::ObjectStore& store, const std::vector<std::string>& ids,
               const Limits& limits) {
    for (const std::string& id : ids) objects_[id].bytes = store.Find(id);
    for (const std::string& id : ids) {
      const wire::ObjectBytes& bytes = objects_[id].bytes;
      if (bytes == nullptr) continue;
      const absl::StatusOr<wire::ObjectView> view = wire::ParseObject(*bytes, limits);
      if (!view.ok() || view->type != "Array") continue;
      for (const std::string_view chunk : view->children) ++objects_[Text(chunk)].arrays;
    }
  }

  wire::ObjectBytes Use(std::string_view id) {
    const auto it = objects_.find(Text(id));
    if (it == objects_.end()) return nullptr;
    Entry& entry = it->second;
    return entry.arrays > 0 && --entry.arrays == 0 ? std::move(entry.bytes) : entry.bytes;
  }

 private:
  struct Entry {
    wire::ObjectBytes bytes;
    int64_t arrays = 0;  // of which it is a chunk, and which have not been put together yet
  };
  absl::flat_hash_map<std::string, Entry> objects_;
};

}  // namespace

RunGrid::~RunGrid() {
  Answers answers;
  MutexLock lock(state_.mu);
  ReleaseUsedReplies(answers);
  state_.FinishRun(run_id_, kCompleted, "", answers);
}

absl::Status RunGrid::CheckGoesOn() const {
  if (state_.stopping) return absl::CancelledError("the server is stopping");
  if (state_.runs.IsFinished(run_id_)) return absl::CancelledError("the run was stopped");
  return absl::OkStatus();
}

std::vector<uint64_t> RunGrid::NodeIds() {
  MutexLock lock(state_.mu);
  return state_.nodes.Online(state_.options.timer());
}

absl::StatusOr<std::vector<uint64_t>> RunGrid::WaitForNodes(int64_t count, absl::Time deadline) {
  const absl::Time end = state_.options.timer() + (deadline - absl::Now());
  MutexLock lock(state_.mu);
  while (true) {
    FEDUMM_RETURN_IF_ERROR(CheckGoesOn());
    const absl::Time now = state_.options.timer();
    std::vector<uint64_t> online = state_.nodes.Online(now);
    const absl::Duration left = end - now;
    if (static_cast<int64_t>(online.size()) >= count || left <= absl::ZeroDuration()) {
      return online;
    }
    state_.WaitForChange(left);
  }
}

absl::StatusOr<std::vector<std::string>> RunGrid::PushMessages(std::vector<Message> messages) {
  for (const Message& message : messages) {
    FEDUMM_RETURN_IF_ERROR(CheckOwnInstruction(message));
    // Protobuf would write nothing for a larger record, without an error.
    FEDUMM_RETURN_IF_ERROR(wire::CheckRecordSizes(message, state_.options.limits));
  }
  Shared shared;
  std::vector<std::string> ids;
  ids.reserve(messages.size());
  for (Message& message : messages) {
    FEDUMM_ASSIGN_OR_RETURN(std::string id, Push(std::move(message), shared));
    ids.push_back(std::move(id));
  }
  return ids;
}

std::shared_ptr<const Mailbox::Parts> RunGrid::PartsOf(
    const std::shared_ptr<const wire::DeflatedContent>& content, Shared& shared) {
  constexpr size_t kMostContents = 8;  // that messages may take turns with
  for (const Shared::Content& known : shared.contents) {
    if (known.deflated == content) return known.parts;
  }
  std::vector<std::shared_ptr<const Mailbox::Parts>> below;
  for (const auto& record : content->records) below.push_back(PartsOf(record, shared));
  flwr::proto::ObjectTree tree;
  tree.add_children()->set_object_id(content->root.id);
  state_.objects.Add(content->root);
  auto parts = std::make_shared<const Mailbox::Parts>(state_.objects, std::move(tree),
                                                      std::vector<std::string>{content->root.id},
                                                      std::move(below));
  if (shared.contents.size() >= kMostContents) shared.contents.pop_front();
  shared.contents.push_back({content, parts});
  return parts;
}

std::shared_ptr<const Mailbox::Parts> RunGrid::PartsOf(
    const std::shared_ptr<const wire::DeflatedRecord>& record, Shared& shared) {
  Shared::Record& known = shared.records[record.get()];
  if (known.parts != nullptr) return known.parts;
  std::vector<std::string> ids;
  ids.reserve(record->objects.size());
  for (const wire::Object& object : record->objects) {
    state_.objects.Add(object);
    ids.push_back(object.id);
  }
  known.deflated = record;
  known.parts =
      std::make_shared<const Mailbox::Parts>(state_.objects, record->tree, std::move(ids));
  return known.parts;
}

absl::StatusOr<std::string> RunGrid::Push(Message message, Shared& shared) {
  Metadata& metadata = message.metadata;
  metadata.run_id = run_id_;
  metadata.src_node_id = kSuperLinkNodeId;
  metadata.reply_to_message_id.clear();
  {
    MutexLock lock(state_.mu);
    FEDUMM_RETURN_IF_ERROR(CheckGoesOn());
    if (!state_.nodes.IsRegistered(metadata.dst_node_id)) return std::string();
    // Equal messages to one node must differ in something, or they would have one id.
    const double now = absl::ToDoubleSeconds(state_.options.clock() - absl::UnixEpoch());
    last_created_at_ = metadata.created_at = std::max(now, last_created_at_ + 1e-6);
  }
  const wire::SharedMessage deflated = shared.deflater.DeflateShared(message);
  metadata.message_id = deflated.root.id;
  Mailbox::Instruction instruction{
      .metadata = metadata,
      .message = wire::MessageToWire(message),
      .parts = PartsOf(deflated.content, shared),
      .num_bytes = deflated.content->num_bytes + static_cast<int64_t>(deflated.root.bytes->size())};
  state_.objects.Add(deflated.root);
  Answers answers;
  MutexLock lock(state_.mu);
  if (absl::Status goes_on = CheckGoesOn(); !goes_on.ok()) {  // it ended meanwhile
    state_.objects.Release({metadata.message_id});
    return goes_on;
  }
  const absl::Time now = state_.options.timer();
  pending_.insert(metadata.message_id);
  recheck_ = std::min(
      {recheck_, now + absl::Seconds(metadata.ttl), state_.nodes.GoneAt(metadata.dst_node_id)});
  state_.mailbox.Post(std::move(instruction), now);
  state_.Deliver(metadata.dst_node_id, answers);
  return metadata.message_id;
}

absl::StatusOr<std::vector<Message>> RunGrid::PullMessages(
    const std::vector<std::string>& message_ids, absl::Time deadline) {
  const absl::Time end = state_.options.timer() + (deadline - absl::Now());
  bool had_large = false;
  {
    Answers answers;
    MutexLock lock(state_.mu);
    for (const std::string& id : used_) {
      had_large = had_large || state_.mailbox.NumBytes(id) >= kMaxBatchBytes;
    }
    ReleaseUsedReplies(answers);
  }
  if (had_large) ReturnFreeMemory();
  std::vector<Mailbox::Outcome> outcomes;
  {
    const Ids wanted(message_ids.begin(), message_ids.end());
    bool first = true;
    MutexLock lock(state_.mu);
    while (true) {
      FEDUMM_RETURN_IF_ERROR(CheckGoesOn());
      outcomes = Take(wanted);
      if (outcomes.empty() && std::exchange(first, false)) outcomes = TakeUnknown(wanted);
      const absl::Time now = state_.options.timer();
      if (!outcomes.empty() || wanted.empty() || now >= end) break;
      state_.WaitForChange(std::min(end, recheck_) - now);
    }
  }
  std::vector<Message> replies;
  replies.reserve(outcomes.size());
  for (Mailbox::Outcome& outcome : outcomes) replies.push_back(ToMessage(std::move(outcome)));
  return replies;
}

void RunGrid::ReleaseUsedReplies(Answers& answers) {
  if (used_.empty()) return;
  for (const std::string& id : used_) state_.gate.Leave(id);
  used_.clear();
  state_.AdmitHeldReplies(answers);
}

std::vector<Mailbox::Outcome> RunGrid::Take(const Ids& wanted) {
  if (state_.options.timer() >= recheck_ || state_.early_losses != early_losses_) Recheck();
  std::vector<std::string> over;
  int64_t num_bytes = 0;
  for (const std::set<std::string>* ids :
       {&state_.mailbox.Answered(run_id_), &std::as_const(ended_)}) {
    for (const std::string& id : *ids) {
      if (num_bytes >= kMaxBatchBytes) break;
      if (!wanted.contains(id)) continue;
      over.push_back(id);
      num_bytes += state_.mailbox.NumBytes(id);
    }
  }
  return TakeAll(over);
}

std::vector<Mailbox::Outcome> RunGrid::TakeUnknown(const Ids& wanted) {
  std::vector<std::string> unknown;
  for (const absl::string_view id : wanted) {
    if (!pending_.contains(id)) unknown.emplace_back(id);
  }
  return TakeAll(unknown);
}

std::vector<Mailbox::Outcome> RunGrid::TakeAll(const std::vector<std::string>& message_ids) {
  const absl::Time now = state_.options.timer();
  std::vector<Mailbox::Outcome> outcomes;
  for (const std::string& id : message_ids) {
    const absl::Time gone_at = state_.nodes.GoneAt(state_.mailbox.Destination(id));
    Mailbox::Outcome outcome = state_.mailbox.Take(run_id_, id, gone_at, now);
    ended_.erase(id);
    if (outcome.pending) {  // its node came back
      recheck_ = std::min(recheck_, outcome.recheck);
      continue;
    }
    pending_.erase(id);
    if (!outcome.reply.has_value() && !outcome.error.has_value()) continue;
    outcomes.push_back(std::move(outcome));
    used_.push_back(id);
  }
  return outcomes;
}

void RunGrid::Recheck() {
  const absl::Time now = state_.options.timer();
  early_losses_ = state_.early_losses;
  recheck_ = absl::InfiniteFuture();
  for (const std::string& id : pending_) {
    const absl::Time gone_at = state_.nodes.GoneAt(state_.mailbox.Destination(id));
    const std::optional<absl::Time> end = state_.mailbox.Pending(run_id_, id, gone_at, now);
    if (end.has_value()) {
      recheck_ = std::min(recheck_, *end);
    } else {
      ended_.insert(id);
    }
  }
}

Message RunGrid::ToMessage(Mailbox::Outcome outcome) {
  const absl::Time now = state_.options.clock();
  const auto error_reply = [&](Error error) {
    Message reply = ErrorReply(outcome.instruction, std::move(error), now);
    reply.metadata.message_id = wire::Deflater().Deflate(reply).message_id;
    return reply;
  };
  if (outcome.error.has_value()) {
    return error_reply(*std::move(outcome.error));
  }
  ReplyObjects objects(state_.objects, outcome.reply_objects, state_.options.limits);
  state_.objects.Release(outcome.reply_objects);
  absl::StatusOr<Message> message;
  try {
    message = wire::Inflate(
        outcome.reply->message_id, [&](std::string_view id) { return objects.Use(id); },
        state_.options.limits, /*verified=*/true);
  } catch (const std::bad_alloc&) {
    message = absl::ResourceExhaustedError("out of memory");
  }
  if (!message.ok()) {
    Log()->warn("the reply of node {} in run {} is malformed: {}", outcome.reply->src_node_id,
                run_id_, Printable(message.status().message()));
    return error_reply({.code = ErrorCode::kReplyMessageUnavailable,
                        .reason = absl::StrCat("malformed reply: ", message.status().message())});
  }
  // What was checked against the instruction counts, not what the objects say.
  message->metadata = *std::move(outcome.reply);
  return *std::move(message);
}

void RunGrid::Withdraw(const std::vector<std::string>& message_ids) {
  Answers answers;
  MutexLock lock(state_.mu);
  for (const std::string& id : message_ids) {
    state_.mailbox.Withdraw(run_id_, id);
    pending_.erase(id);
    ended_.erase(id);
  }
  used_.insert(used_.end(), message_ids.begin(), message_ids.end());
  ReleaseUsedReplies(answers);
}

Grid::Traffic RunGrid::NodeTraffic(uint64_t node_id) {
  MutexLock lock(state_.mu);
  return state_.nodes.Traffic(node_id);
}

}  // namespace fedumm::link
