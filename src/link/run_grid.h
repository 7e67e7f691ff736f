#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "fedumm/grid.h"
#include "link/link_state.h"
#include "wire/object.h"

namespace fedumm::link {

// The server application's half of a SuperLink: one run. Thread-safe. Its destruction finishes the
// run.
class RunGrid final : public Grid {
 public:
  // The run exists; `state` outlives the grid.
  RunGrid(LinkState& state, uint64_t run_id) : state_(state), run_id_(run_id) {}
  ~RunGrid() override;

  uint64_t run_id() const override { return run_id_; }
  std::vector<uint64_t> NodeIds() override;
  absl::StatusOr<std::vector<uint64_t>> WaitForNodes(int64_t count, absl::Time deadline) override;
  absl::StatusOr<std::vector<std::string>> PushMessages(std::vector<Message> messages) override;
  absl::StatusOr<std::vector<Message>> PullMessages(const std::vector<std::string>& message_ids,
                                                    absl::Time deadline) override;
  void Withdraw(const std::vector<std::string>& message_ids) override;
  Traffic NodeTraffic(uint64_t node_id) override;

 private:
  // CANCELLED when the server is stopping or the run is over.
  absl::Status CheckGoesOn() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mu);
  // What the messages of one push share.
  struct Shared {
    struct Content {
      std::shared_ptr<const wire::DeflatedContent> deflated;
      std::shared_ptr<const Mailbox::Parts> parts;
    };
    struct Record {
      std::shared_ptr<const wire::DeflatedRecord> deflated;  // keeps the address, which is the key
      std::shared_ptr<const Mailbox::Parts> parts;
    };
    wire::Deflater deflater;
    std::deque<Content> contents;  // that were used last
    absl::flat_hash_map<const wire::DeflatedRecord*, Record> records;
  };
  absl::StatusOr<std::string> Push(Message message, Shared& shared);
  std::shared_ptr<const Mailbox::Parts> PartsOf(
      const std::shared_ptr<const wire::DeflatedContent>& content, Shared& shared);
  std::shared_ptr<const Mailbox::Parts> PartsOf(
      const std::shared_ptr<const wire::DeflatedRecord>& record, Shared& shared);
  // The application asks for more, so it has done with the replies that it was given.
  void ReturnUsed(Answers& answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mu);
  using Ids = absl::flat_hash_set<absl::string_view>;
  // Of `wanted`, instructions that are over, taken: as many as make a handful of bytes. Its time
  // does not grow with those that are not over.
  std::vector<Mailbox::Outcome> Take(const Ids& wanted) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mu);
  // Likewise, of those that are not pending, as far as this grid knows.
  std::vector<Mailbox::Outcome> TakeUnknown(const Ids& wanted)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mu);
  std::vector<Mailbox::Outcome> TakeAll(const std::vector<std::string>& message_ids)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mu);
  // Looks at all that is pending for what time alone has ended, or a node's early loss.
  void Recheck() ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mu);
  Message ToMessage(Mailbox::Outcome outcome);

  LinkState& state_;
  const uint64_t run_id_;
  double last_created_at_ ABSL_GUARDED_BY(state_.mu) = 0;
  absl::flat_hash_set<std::string> pending_ ABSL_GUARDED_BY(state_.mu);  // sent, and not taken
  std::set<std::string> ended_ ABSL_GUARDED_BY(state_.mu);  // of these, without an answer
  absl::Time recheck_ ABSL_GUARDED_BY(state_.mu) = absl::InfiniteFuture();  // when it is due
  uint64_t early_losses_ ABSL_GUARDED_BY(state_.mu) = 0;                    // seen by Recheck
  std::vector<std::string> used_ ABSL_GUARDED_BY(state_.mu);  // instructions whose reply was given
};

}  // namespace fedumm::link
