#include "link/mailbox.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "link/random_id.h"
#include "link/reply_rules.h"

namespace fedumm::link {
namespace {

// How long a closed instruction is remembered: a node that repeats its reply gets no error then,
// and a late reply is not taken for one to an unknown instruction.
constexpr absl::Duration kKeepClosed = absl::Minutes(10);
constexpr size_t kMaxClosed = 10'000;

Error Unavailable(ErrorCode code, std::string reason) {
  return {.code = code, .reason = std::move(reason)};
}

bool SameTrees(const flwr::proto::ObjectTree& a, const flwr::proto::ObjectTree& b) {
  return a.object_id() == b.object_id() &&
         std::equal(a.children().begin(), a.children().end(), b.children().begin(),
                    b.children().end(), SameTrees);
}

}  // namespace

std::shared_ptr<const Mailbox::Parts> Mailbox::TakeParts(Instruction& instruction) {
  if (instruction.parts != nullptr) return std::exchange(instruction.parts, nullptr);
  flwr::proto::ObjectTree tree = std::exchange(instruction.tree, {});
  tree.clear_object_id();
  std::vector<std::string> ids = std::exchange(instruction.object_ids, {});
  std::erase(ids, instruction.metadata.message_id);
  if (std::shared_ptr<const Parts> last = last_parts_.lock()) {
    if (last->ids == ids && last->below.empty() && SameTrees(last->own_tree, tree)) {
      objects_.Release(ids);  // `last` holds references on them
      return last;
    }
  }
  auto parts = std::make_shared<const Parts>(objects_, std::move(tree), std::move(ids));
  last_parts_ = parts;
  return parts;
}

void Mailbox::Post(Instruction instruction, absl::Time now) {
  const std::string id = instruction.metadata.message_id;
  const uint64_t node = instruction.metadata.dst_node_id;
  Entry& entry = entries_[id];
  entry.expires = now + absl::Seconds(instruction.metadata.ttl);
  entry.parts = TakeParts(instruction);
  entry.message = std::make_shared<const flwr::proto::Message>(
      std::exchange(instruction.message, flwr::proto::Message()));
  entry.instruction = std::move(instruction);
  live_[node].push_back(&entry);
}

Mailbox::Upload Mailbox::Announce(uint64_t run_id, std::vector<Instruction> instructions,
                                  absl::Time now) {
  Upload upload;
  upload.session = RandomSession();
  Session session;
  session.run_id = run_id;
  session.end = now + options_.session_timeout;
  for (Instruction& instruction : instructions) {
    const std::string id = instruction.metadata.message_id;
    const auto known = entries_.find(id);
    if (known == entries_.end()) {
      objects_.Announce(instruction.object_ids);
      Post(std::move(instruction), now);
      entries_.at(id).stage = Stage::kComing;
    } else if (known->second.stage != Stage::kComing) {
      continue;
    }
    session.message_ids.push_back(id);
    const auto need = [&](const std::string& object) {
      if (!session.all.insert(object).second || objects_.Find(object) != nullptr) return;
      session.missing.insert(object);
      upload.to_push.push_back(object);
    };
    for (const std::string& object : entries_.at(id).parts->ids) need(object);
    need(id);
  }
  if (session.missing.empty()) upload.ready = Complete(session);
  // Kept, even when nothing is missing: the peer may push what is here already.
  Due(session.end);
  sessions_.emplace(upload.session, std::move(session));
  return upload;
}

absl::Status Mailbox::CheckInstructionUpload(uint64_t run_id, const std::string& object_id,
                                             std::string_view session_id, int64_t num_bytes) const {
  for (const auto& [id, session] : sessions_) {
    if (session.run_id != run_id || !session.all.contains(object_id)) continue;
    if (!session_id.empty() && session_id != id) continue;
    if (session.num_bytes + num_bytes > options_.limits.max_stored_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("messages may not exceed ", options_.limits.max_stored_bytes, " bytes"));
    }
    return absl::OkStatus();
  }
  return absl::NotFoundError("no message of the run in this session announced the object");
}

std::vector<uint64_t> Mailbox::InstructionUploaded(uint64_t run_id, const std::string& object_id,
                                                   int64_t num_bytes, absl::Time now) {
  std::vector<uint64_t> ready;
  for (auto& [id, session] : sessions_) {
    if (session.run_id != run_id || session.missing.erase(object_id) == 0) continue;
    session.num_bytes += num_bytes;
    session.end = now + options_.session_timeout;
    if (!session.missing.empty()) continue;
    const std::vector<uint64_t> nodes = Complete(session);
    ready.insert(ready.end(), nodes.begin(), nodes.end());
  }
  return ready;
}

std::vector<uint64_t> Mailbox::Complete(const Session& session) {
  std::vector<uint64_t> nodes;
  for (const std::string& id : session.message_ids) {
    const auto it = entries_.find(id);
    if (it == entries_.end() || it->second.stage != Stage::kComing) continue;
    it->second.stage = Stage::kWaiting;
    nodes.push_back(it->second.instruction.metadata.dst_node_id);
  }
  return nodes;
}

const std::set<std::string>& Mailbox::Answered(uint64_t run_id) const {
  static const std::set<std::string> kNone;
  const auto it = answered_.find(run_id);
  return it == answered_.end() ? kNone : it->second;
}

std::optional<absl::Time> Mailbox::Pending(uint64_t run_id, const std::string& message_id,
                                           absl::Time gone_at, absl::Time now) const {
  const auto it = entries_.find(message_id);
  if (it == entries_.end() || it->second.instruction.metadata.run_id != run_id) return std::nullopt;
  const Entry& entry = it->second;
  if (entry.stage == Stage::kClosed || entry.stage == Stage::kAnswered) return std::nullopt;
  const absl::Time end = std::min(entry.expires, gone_at);
  if (now >= end) return std::nullopt;
  return end;
}

Mailbox::Outcome Mailbox::Take(uint64_t run_id, const std::string& message_id, absl::Time gone_at,
                               absl::Time now) {
  Outcome outcome;
  const auto it = entries_.find(message_id);
  if (it == entries_.end() || it->second.instruction.metadata.run_id != run_id) {
    outcome.instruction.run_id = run_id;
    outcome.instruction.message_id = message_id;
    outcome.error = Unavailable(ErrorCode::kMessageUnavailable, "the instruction is unknown");
    return outcome;
  }
  Entry& entry = it->second;
  outcome.instruction = entry.instruction.metadata;
  if (entry.stage == Stage::kClosed) return outcome;
  if (entry.error.has_value()) {
    outcome.error = std::move(entry.error);
  } else if (entry.stage == Stage::kAnswered) {
    if (now >= entry.reply->expires) {
      outcome.error = Unavailable(ErrorCode::kReplyMessageUnavailable, "the reply has expired");
    } else {
      outcome.reply = std::move(entry.reply->metadata);
      outcome.reply_objects = std::move(entry.reply->object_ids);
      entry.reply.reset();
    }
  } else if (now >= entry.expires) {
    outcome.error = Unavailable(ErrorCode::kMessageUnavailable, "the instruction has expired");
  } else if (now >= gone_at) {
    outcome.error = Unavailable(ErrorCode::kNodeUnavailable, "the node is offline");
  } else {
    outcome.pending = true;
    outcome.recheck = std::min(entry.expires, gone_at);
    return outcome;
  }
  Close(entry, now);
  return outcome;
}

uint64_t Mailbox::Destination(const std::string& message_id) const {
  const auto it = entries_.find(message_id);
  return it == entries_.end() ? 0 : it->second.instruction.metadata.dst_node_id;
}

int64_t Mailbox::NumBytes(const std::string& message_id) const {
  const auto it = entries_.find(message_id);
  return it == entries_.end() ? 0 : it->second.instruction.num_bytes;
}

int64_t Mailbox::AwaitedBytes(uint64_t node, const std::string& message_id) const {
  const std::vector<Entry*>& live = Live(node);
  const auto it = std::find_if(live.begin(), live.end(), [&](const Entry* entry) {
    return entry->stage != Stage::kAnswered && entry->instruction.metadata.message_id == message_id;
  });
  return it == live.end() ? 0 : (*it)->instruction.num_bytes;
}

void Mailbox::Withdraw(uint64_t run_id, const std::string& message_id) {
  const auto it = entries_.find(message_id);
  if (it == entries_.end() || it->second.instruction.metadata.run_id != run_id) return;
  Unlink(it->second);
  ReleaseInstruction(it->second);
  DropReply(it->second);
  RemoveAnswered(it->second);
  entries_.erase(it);
}

void Mailbox::DropRun(uint64_t run_id) {
  std::vector<std::string> ids;
  for (const auto& [id, entry] : entries_) {
    if (entry.instruction.metadata.run_id == run_id) ids.push_back(id);
  }
  for (const std::string& id : ids) Withdraw(run_id, id);
  std::erase_if(sessions_, [&](const auto& item) { return item.second.run_id == run_id; });
}

std::optional<Mailbox::Offered> Mailbox::Offer(uint64_t node, uint64_t ticket, absl::Time now) {
  for (Entry* entry : Live(node)) {
    const bool waits = entry->stage == Stage::kWaiting ||
                       (entry->stage == Stage::kOffered && now >= entry->lease_end);
    const bool being_answered = entry->reply.has_value() && !entry->reply->stale;
    if (!waits || being_answered || now >= entry->expires) continue;
    entry->stage = Stage::kOffered;
    entry->ticket = ticket;
    entry->offered = true;
    entry->lease_end = now + options_.lease;
    Due(entry->lease_end);
    Offered offered;
    offered.message_id_ = entry->instruction.metadata.message_id;
    offered.message_ = entry->message;
    offered.parts_ = entry->parts;
    return offered;
  }
  return std::nullopt;
}

flwr::proto::ObjectTree Mailbox::Offered::Tree() const { return parts_->TreeOf(message_id_); }

bool Mailbox::Parts::Contains(absl::string_view object_id) const {
  return all.contains(object_id) ||
         std::any_of(below.begin(), below.end(), [&](const std::shared_ptr<const Parts>& parts) {
           return parts->Contains(object_id);
         });
}

flwr::proto::ObjectTree Mailbox::Parts::TreeOf(const std::string& message_id) const {
  flwr::proto::ObjectTree tree = own_tree;
  tree.set_object_id(message_id);
  for (const std::shared_ptr<const Parts>& parts : below) {
    *tree.mutable_children(0)->add_children() = parts->own_tree;
  }
  return tree;
}

void Mailbox::TakeBack(uint64_t node, uint64_t ticket) {
  for (Entry* entry : Live(node)) {
    if (entry->stage == Stage::kOffered && entry->ticket == ticket) entry->stage = Stage::kWaiting;
  }
}

void Mailbox::Confirm(uint64_t node, uint64_t run_id, std::string_view message_id) {
  const auto it = entries_.find(message_id);
  if (it == entries_.end()) return;
  Entry& entry = it->second;
  const Metadata& metadata = entry.instruction.metadata;
  if (metadata.dst_node_id != node || metadata.run_id != run_id || !entry.offered) return;
  if (entry.stage == Stage::kWaiting || entry.stage == Stage::kOffered) {
    entry.stage = Stage::kConfirmed;
  }
}

void Mailbox::Restart(uint64_t node) {
  for (Entry* entry : Live(node)) {
    if (entry->stage == Stage::kComing || entry->stage == Stage::kAnswered) continue;
    entry->stage = Stage::kWaiting;
    entry->offered = false;
    if (entry->reply.has_value()) entry->reply->stale = true;
  }
}

bool Mailbox::FailOffered(uint64_t node, uint64_t run_id, const Error& error) {
  bool refused = false;
  for (Entry* entry : Live(node)) {
    if (entry->stage != Stage::kOffered || entry->instruction.metadata.run_id != run_id) continue;
    Fail(*entry, error);
    refused = true;
  }
  return refused;
}

void Mailbox::FailAll(uint64_t node, const Error& error) {
  for (Entry* entry : Live(node)) {
    if (entry->stage != Stage::kComing) Fail(*entry, error);
  }
}

bool Mailbox::FailUpload(uint64_t node, uint64_t run_id, const std::string& object_id,
                         std::string_view session, const Error& error) {
  bool failed = false;
  for (Entry* entry : Live(node)) {
    if (entry->instruction.metadata.run_id != run_id || !entry->reply.has_value()) continue;
    if (!entry->reply->missing.contains(object_id)) continue;
    if (!session.empty() && session != entry->reply->session) continue;
    Fail(*entry, error);
    failed = true;
  }
  return failed;
}

bool Mailbox::FailUploads(uint64_t node, const Error& error) {
  bool failed = false;
  for (Entry* entry : Live(node)) {
    if (!entry->reply.has_value() || entry->reply->missing.empty()) continue;
    Fail(*entry, error);
    failed = true;
  }
  return failed;
}

bool Mailbox::FailReply(uint64_t node, uint64_t run_id, const std::string& instruction_id,
                        const Error& error) {
  for (Entry* entry : Live(node)) {
    const Metadata& metadata = entry->instruction.metadata;
    if (metadata.message_id != instruction_id || metadata.run_id != run_id) continue;
    const bool has_other = entry->reply.has_value() && !entry->reply->stale;
    if (!entry->offered || has_other || entry->stage == Stage::kAnswered) continue;
    Fail(*entry, error);
    return true;
  }
  return false;
}

bool Mailbox::MayPullObject(uint64_t node, uint64_t run_id, const std::string& object_id,
                            absl::Time now) {
  bool found = false;
  for (Entry* entry : Live(node)) {
    const Metadata& metadata = entry->instruction.metadata;
    if (metadata.run_id != run_id || entry->parts == nullptr) continue;
    if (object_id != metadata.message_id && !entry->parts->Contains(object_id)) continue;
    if (entry->stage == Stage::kComing) continue;
    found = true;
    if (entry->stage == Stage::kOffered) entry->lease_end = now + options_.lease;
  }
  return found;
}

absl::StatusOr<Mailbox::Receipt> Mailbox::PushReply(uint64_t node, const Metadata& reply,
                                                    std::vector<std::string> object_ids,
                                                    absl::Time now, absl::Time wall_now) {
  const auto it = entries_.find(reply.reply_to_message_id);
  if (it == entries_.end() || it->second.stage == Stage::kComing || reply.src_node_id != node) {
    return absl::InvalidArgumentError(absl::StrCat("node ", node, " may not answer for node ",
                                                   reply.src_node_id, " or to a message unknown"));
  }
  Entry& entry = it->second;
  FEDUMM_RETURN_IF_ERROR(CheckReply(reply, entry.instruction.metadata, wall_now));
  const bool finished = entry.stage == Stage::kAnswered || entry.stage == Stage::kClosed;
  if (finished && entry.reply_id == reply.message_id) return Receipt{.complete = true};
  const bool has_other =
      entry.reply.has_value() && entry.reply->metadata.message_id != reply.message_id;
  // A reply of one object is an error: the node has given the other one up.
  const bool gives_up = object_ids.size() == 1;
  if (finished || (has_other && !entry.reply->stale && !gives_up)) {
    return absl::AlreadyExistsError("the instruction has another reply or was given up");
  }
  if (now >= entry.expires) return absl::InvalidArgumentError("the instruction has expired");

  Reply next;
  next.session = RandomSession();
  if (entry.reply.has_value() && !has_other) {  // repeated: what is under way goes on
    next.session = entry.reply->session;
    next.num_bytes = entry.reply->num_bytes;
  }
  Receipt receipt{.to_push = objects_.Announce(object_ids), .session = next.session};
  next.metadata = reply;
  next.all.insert(object_ids.begin(), object_ids.end());
  next.missing.insert(receipt.to_push.begin(), receipt.to_push.end());
  next.object_ids = std::move(object_ids);
  next.session_end = now + options_.session_timeout;
  next.expires = std::min(entry.expires, now + absl::Seconds(reply.ttl));
  Due(next.session_end);
  DropReply(entry);  // after the new references, so that objects in both stay
  entry.reply = std::move(next);
  receipt.complete = receipt.to_push.empty();
  if (receipt.complete) Answer(entry);
  return receipt;
}

absl::Status Mailbox::CheckUpload(uint64_t node, uint64_t run_id, const std::string& object_id,
                                  std::string_view session, int64_t num_bytes) const {
  for (const Entry* entry : Live(node)) {
    if (entry->instruction.metadata.run_id != run_id || !entry->reply.has_value()) continue;
    const Reply& reply = *entry->reply;
    if (!reply.all.contains(object_id)) continue;
    if (!session.empty() && session != reply.session) continue;
    if (reply.num_bytes + num_bytes > options_.limits.max_message_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("a message may not exceed ", options_.limits.max_message_bytes, " bytes"));
    }
    return absl::OkStatus();
  }
  return absl::NotFoundError("no reply of the node in this session announced the object");
}

void Mailbox::ExtendUploads(uint64_t node, absl::Time end) {
  for (Entry* entry : Live(node)) {
    if (entry->reply.has_value() && !entry->reply->missing.empty()) {
      entry->reply->session_end = std::max(entry->reply->session_end, end);
    }
  }
}

bool Mailbox::Uploaded(uint64_t node, uint64_t run_id, const std::string& object_id,
                       int64_t num_bytes, absl::Time now) {
  bool completed = false;
  for (Entry* entry : Live(node)) {
    if (entry->instruction.metadata.run_id != run_id || !entry->reply.has_value()) continue;
    Reply& reply = *entry->reply;
    if (reply.missing.erase(object_id) == 0) continue;
    reply.num_bytes += num_bytes;
    reply.session_end = now + options_.session_timeout;
    if (!reply.missing.empty()) continue;
    Answer(*entry);
    completed = true;
  }
  return completed;
}

std::vector<uint64_t> Mailbox::Expire(absl::Time now) {
  std::vector<uint64_t> nodes;
  if (now < next_due_) return nodes;
  next_due_ = absl::InfiniteFuture();
  std::vector<std::pair<uint64_t, std::string>> stalled_messages;
  for (auto it = sessions_.begin(); it != sessions_.end();) {
    if (now < it->second.end) {
      Due(it->second.end);
      ++it;
      continue;
    }
    for (const std::string& id : it->second.message_ids) {
      const auto entry = entries_.find(id);
      if (entry != entries_.end() && entry->second.stage == Stage::kComing) {
        stalled_messages.emplace_back(it->second.run_id, id);
      }
    }
    it = sessions_.erase(it);
  }
  for (const auto& [run_id, id] : stalled_messages) {
    const bool announced_again =
        std::any_of(sessions_.begin(), sessions_.end(), [&id = id](const auto& item) {
          const std::vector<std::string>& ids = item.second.message_ids;
          return std::find(ids.begin(), ids.end(), id) != ids.end();
        });
    if (!announced_again) Withdraw(run_id, id);
  }
  for (const auto& [node, entries] : live_) {
    for (Entry* const entry : entries) {
      const bool uploading = entry->reply.has_value() && entry->stage != Stage::kAnswered;
      const bool stalled = uploading && now >= entry->reply->session_end;
      const bool unconfirmed = entry->stage == Stage::kOffered && now >= entry->lease_end;
      if (stalled) DropReply(*entry);
      if (stalled || unconfirmed) {
        entry->stage = Stage::kWaiting;
        nodes.push_back(node);
      } else {
        if (uploading) Due(entry->reply->session_end);
        if (entry->stage == Stage::kOffered) Due(entry->lease_end);
      }
    }
  }
  EvictClosed(now);
  return nodes;
}

void Mailbox::EvictClosed(absl::Time now) {
  while (!closed_.empty() && (now >= closed_.front().first || closed_.size() > kMaxClosed)) {
    const auto it = entries_.find(closed_.front().second);
    if (it != entries_.end() && it->second.stage == Stage::kClosed) entries_.erase(it);
    closed_.pop_front();
  }
  if (!closed_.empty()) Due(closed_.front().first);
}

const std::vector<Mailbox::Entry*>& Mailbox::Live(uint64_t node) const {
  static const std::vector<Entry*> kNone;
  const auto it = live_.find(node);
  return it == live_.end() ? kNone : it->second;
}

void Mailbox::ReleaseInstruction(Entry& entry) {
  if (entry.parts == nullptr) return;
  objects_.Release({entry.instruction.metadata.message_id});
  entry.parts.reset();
}

void Mailbox::DropReply(Entry& entry) {
  if (!entry.reply.has_value()) return;
  objects_.Release(entry.reply->object_ids);
  entry.reply.reset();
}

void Mailbox::SetAnswered(Entry& entry) {
  entry.stage = Stage::kAnswered;
  const Metadata& metadata = entry.instruction.metadata;
  answered_[metadata.run_id].insert(metadata.message_id);
}

void Mailbox::RemoveAnswered(const Entry& entry) {
  const Metadata& metadata = entry.instruction.metadata;
  const auto run = answered_.find(metadata.run_id);
  if (run == answered_.end()) return;
  run->second.erase(metadata.message_id);
  if (run->second.empty()) answered_.erase(run);
}

void Mailbox::Fail(Entry& entry, const Error& error) {
  SetAnswered(entry);
  entry.error = error;
  DropReply(entry);
  ReleaseInstruction(entry);
}

void Mailbox::Answer(Entry& entry) {
  SetAnswered(entry);
  entry.reply_id = entry.reply->metadata.message_id;
  ReleaseInstruction(entry);
}

void Mailbox::Close(Entry& entry, absl::Time now) {
  if (entry.stage == Stage::kClosed) return;
  Unlink(entry);
  ReleaseInstruction(entry);
  DropReply(entry);
  RemoveAnswered(entry);
  entry.stage = Stage::kClosed;
  entry.message.reset();
  closed_.emplace_back(now + kKeepClosed, entry.instruction.metadata.message_id);
  EvictClosed(now);
}

void Mailbox::Unlink(const Entry& entry) {
  const auto it = live_.find(entry.instruction.metadata.dst_node_id);
  if (it == live_.end()) return;
  std::erase(it->second, &entry);
  if (it->second.empty()) live_.erase(it);
}

}  // namespace fedumm::link
