#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "fedumm/limits.h"
#include "fedumm/message.h"
#include "flwr/proto/message.pb.h"
#include "store/object_store.h"

namespace fedumm::link {

// Instructions on their way to nodes, and the replies that come back. An instruction is
//
//   (coming ->) waiting -> offered -> confirmed -> answered -> closed
//
// It is coming while a peer uploads its objects. It goes back to waiting when its lease
// ends unconfirmed, its answer did not go out, its node restarts, or the upload of its reply
// stalls: nothing is lost with a node that dies in between. Holds references on the objects of what
// it keeps. Times are the caller's monotonic `now`. Not thread-safe.
class Mailbox {
 public:
  struct Options {
    absl::Duration lease = absl::Seconds(60);             // from an offer to its confirmation
    absl::Duration session_timeout = absl::Seconds(180);  // between two objects of a reply
    Limits limits;
  };
  // `objects` outlives the mailbox.
  Mailbox(store::ObjectStore& objects, Options options) : objects_(objects), options_(options) {}

  // The server application's side.

  // The objects below a message's own. One copy for all messages that bring the same content to
  // many nodes, made of parts that contents may share. Holds one reference on each object. Never
  // changed.
  struct Parts {
    // `tree`: that of the message without the id of its root, or a record's, to be used below.
    Parts(store::ObjectStore& objects, flwr::proto::ObjectTree tree,
          std::vector<std::string> object_ids,
          std::vector<std::shared_ptr<const Parts>> parts_below = {})
        : store(objects),
          own_tree(std::move(tree)),
          ids(std::move(object_ids)),
          all(ids.begin(), ids.end()),
          below(std::move(parts_below)) {}
    Parts(const Parts&) = delete;
    Parts& operator=(const Parts&) = delete;
    ~Parts() { store.Release(ids); }

    bool Contains(absl::string_view object_id) const;
    flwr::proto::ObjectTree TreeOf(const std::string& message_id) const;

    store::ObjectStore& store;
    const flwr::proto::ObjectTree own_tree;
    const std::vector<std::string> ids;                     // without those of `below`
    const absl::flat_hash_set<absl::string_view> all;       // of `ids`
    const std::vector<std::shared_ptr<const Parts>> below;  // children of the tree's first child
  };

  struct Instruction {
    Metadata metadata;
    flwr::proto::Message message;  // as it travels
    // The objects: all of them as `parts` and one reference on the message's own, or a tree and
    // the ids, one reference on each of which is handed over.
    std::shared_ptr<const Parts> parts;
    flwr::proto::ObjectTree tree;
    std::vector<std::string> object_ids;
    int64_t num_bytes =
        0;  // of the objects, if the reply waits for the memory budget; see ReplyGate
  };
  void Post(Instruction instruction, absl::Time now);

  // Instructions whose objects a peer will upload; none is offered before all of them are here, and
  // all are dropped once no object has come for a session timeout. No references are handed over.
  // Idempotent: an instruction may be announced again.
  struct Upload {
    std::vector<std::string> to_push;  // objects that are missing
    std::string session;
    std::vector<uint64_t> ready;  // nodes for which a message waits now
  };
  Upload Announce(uint64_t run_id, std::vector<Instruction> instructions, absl::Time now);
  // Whether an upload of the run waits for this object, or has it. Errors as of CheckUpload.
  absl::Status CheckInstructionUpload(uint64_t run_id, const std::string& object_id,
                                      std::string_view session, int64_t num_bytes) const;
  // The object is in the store now. Returns the nodes for which a message waits now.
  std::vector<uint64_t> InstructionUploaded(uint64_t run_id, const std::string& object_id,
                                            int64_t num_bytes, absl::Time now);

  // What became of an instruction. Neither reply nor error: `pending`, or it was taken before.
  struct Outcome {
    bool pending = false;
    absl::Time recheck = absl::InfiniteFuture();  // while pending: when time alone can end it
    Metadata instruction;
    std::optional<Metadata> reply;
    std::vector<std::string> reply_objects;  // the caller releases them
    std::optional<Error> error;
  };
  // Takes a complete reply out, or the reason why none will come. `gone_at` tells when to give up
  // on the node.
  Outcome Take(uint64_t run_id, const std::string& message_id, absl::Time gone_at, absl::Time now);
  // The run's instructions that have a reply or an error to be taken, whatever the time. Valid
  // until the next call.
  const std::set<std::string>& Answered(uint64_t run_id) const;
  // When time alone can end the wait for that reply; nothing if Take would find it ended.
  std::optional<absl::Time> Pending(uint64_t run_id, const std::string& message_id,
                                    absl::Time gone_at, absl::Time now) const;
  // The node that an instruction was sent to; 0 if there is no such instruction.
  uint64_t Destination(const std::string& message_id) const;
  // Its Instruction::num_bytes; 0 if there is no such instruction.
  int64_t NumBytes(const std::string& message_id) const;
  // The same while that node has yet to answer it, else 0.
  int64_t AwaitedBytes(uint64_t node, const std::string& message_id) const;
  void Withdraw(uint64_t run_id, const std::string& message_id);
  void DropRun(uint64_t run_id);

  // The node's side.

  // A message for a node. It shares its parts with the mailbox and copies nothing until it is
  // turned into messages of Protobuf, which needs no lock.
  class Offered {
   public:
    flwr::proto::Message Message() const { return *message_; }
    flwr::proto::ObjectTree Tree() const;

   private:
    friend class Mailbox;
    std::string message_id_;
    std::shared_ptr<const flwr::proto::Message> message_;
    std::shared_ptr<const Parts> parts_;
  };
  // The oldest message that waits for the node. `ticket` names the offer.
  std::optional<Offered> Offer(uint64_t node, uint64_t ticket, absl::Time now);
  // The offer never reached the node.
  void TakeBack(uint64_t node, uint64_t ticket);
  // The node has received the whole message. No effect on messages of other nodes, nor on one that
  // was not offered since the node's restart: the previous process with its key confirms it.
  void Confirm(uint64_t node, uint64_t run_id, std::string_view message_id);
  // The node restarted: what it has not answered is offered again.
  void Restart(uint64_t node);
  // The node cannot process what it was offered in this run: the senders get `error`. True if there
  // was anything.
  bool FailOffered(uint64_t node, uint64_t run_id, const Error& error);
  // The node is removed: the senders of all its instructions get `error`, even if its reply is
  // here.
  void FailAll(uint64_t node, const Error& error);
  // A reply of the node that announced this object is rejected: the sender of its instruction gets
  // `error`. `session` may be empty. True if there was one.
  bool FailUpload(uint64_t node, uint64_t run_id, const std::string& object_id,
                  std::string_view session, const Error& error);
  // The same of all replies of the node that are being uploaded.
  bool FailUploads(uint64_t node, const Error& error);
  // The same of a reply to that instruction, unless another one is being uploaded.
  bool FailReply(uint64_t node, uint64_t run_id, const std::string& instruction_id,
                 const Error& error);
  // Whether the object belongs to a message for the node; if so, its lease is renewed.
  bool MayPullObject(uint64_t node, uint64_t run_id, const std::string& object_id, absl::Time now);

  struct Receipt {
    std::vector<std::string> to_push;  // objects that the reply lacks, children first
    std::string session;
    bool complete = false;
  };
  // Announces a reply of `node` with these objects (children first, root last). Idempotent: the
  // same reply may be announced again. An error takes the place of an incomplete reply.
  // ALREADY_EXISTS for another one, INVALID_ARGUMENT with the reason for one that must not be:
  // nothing has changed then. `wall_now` is compared with the reply's own times.
  absl::StatusOr<Receipt> PushReply(uint64_t node, const Metadata& reply,
                                    std::vector<std::string> object_ids, absl::Time now,
                                    absl::Time wall_now);
  // Whether a reply of the node waits for this object, or has it. NOT_FOUND or RESOURCE_EXHAUSTED
  // if it must not be stored. `session` may be empty.
  absl::Status CheckUpload(uint64_t node, uint64_t run_id, const std::string& object_id,
                           std::string_view session, int64_t num_bytes) const;
  // The node is uploading an object that will take until `end`: its replies do not stall before.
  void ExtendUploads(uint64_t node, absl::Time end);
  // The object is in the store now. True if that completed a reply.
  bool Uploaded(uint64_t node, uint64_t run_id, const std::string& object_id, int64_t num_bytes,
                absl::Time now);

  // Ends leases and sessions that have run out. Returns the nodes for which a message waits again.
  std::vector<uint64_t> Expire(absl::Time now);
  absl::Time next_due() const { return next_due_; }  // when Expire has more to do

 private:
  enum class Stage { kComing, kWaiting, kOffered, kConfirmed, kAnswered, kClosed };
  struct Reply {
    Metadata metadata;
    std::vector<std::string> object_ids;  // as announced; a reference on each is held
    absl::flat_hash_set<std::string> all;
    absl::flat_hash_set<std::string> missing;
    int64_t num_bytes = 0;
    std::string session;
    absl::Time session_end;
    absl::Time expires;
    bool stale = false;  // the node has restarted since it announced the reply
  };
  struct Entry {
    Instruction instruction;  // without its message, tree and ids
    std::shared_ptr<const flwr::proto::Message> message;
    std::shared_ptr<const Parts> parts;  // null once they were released
    absl::Time expires;
    Stage stage = Stage::kWaiting;
    uint64_t ticket = 0;
    bool offered = false;  // since the node's restart
    absl::Time lease_end;
    std::optional<Reply> reply;
    std::optional<Error> error;  // of an answered one that has no reply
    std::string reply_id;        // of an answered or closed one
  };

  // Instructions that were announced together.
  struct Session {
    uint64_t run_id = 0;
    std::vector<std::string> message_ids;
    absl::flat_hash_set<std::string> all;
    absl::flat_hash_set<std::string> missing;
    int64_t num_bytes = 0;
    absl::Time end;
  };

  // Takes the tree and the ids out of the instruction.
  std::shared_ptr<const Parts> TakeParts(Instruction& instruction);
  std::vector<uint64_t> Complete(const Session& session);
  const std::vector<Entry*>& Live(uint64_t node) const;
  void ReleaseInstruction(Entry& entry);
  void DropReply(Entry& entry);
  void Answer(Entry& entry);
  void Fail(Entry& entry, const Error& error);
  // It is answered: by its reply, or by an error.
  void SetAnswered(Entry& entry);
  // It is no longer to be taken.
  void RemoveAnswered(const Entry& entry);
  // Evicts old closed entries, and so perhaps this one.
  void Close(Entry& entry, absl::Time now);
  void EvictClosed(absl::Time now);
  void Unlink(const Entry& entry);
  void Due(absl::Time at) { next_due_ = std::min(next_due_, at); }

  store::ObjectStore& objects_;
  const Options options_;
  std::map<std::string, Entry, std::less<>> entries_;      // by message id
  std::map<uint64_t, std::vector<Entry*>> live_;           // by node, not closed, oldest first
  std::deque<std::pair<absl::Time, std::string>> closed_;  // when to evict which, oldest first
  std::map<uint64_t, std::set<std::string>> answered_;     // message ids by run
  std::map<std::string, Session, std::less<>> sessions_;
  std::weak_ptr<const Parts> last_parts_;  // of the instruction posted last
  absl::Time next_due_ = absl::InfiniteFuture();
};

}  // namespace fedumm::link
