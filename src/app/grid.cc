#include "fedumm/grid.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/time/clock.h"
#include "base/countdown.h"
#include "base/status_macros.h"

namespace fedumm {
namespace {

// The ids of messages that still lack a reply, as the vector that PullMessages takes. Erase does
// not depend on their number.
class Waiting {
 public:
  explicit Waiting(const std::vector<std::string>& ids) {
    for (const std::string& id : ids) {
      // "" stands for a message that was rejected: it gets no reply.
      if (!id.empty() && places_.emplace(id, ids_.size()).second) ids_.push_back(id);
    }
  }

  const std::vector<std::string>& ids() const { return ids_; }
  bool Erase(const std::string& id) {
    const auto it = places_.find(id);
    if (it == places_.end()) return false;
    const size_t place = it->second;
    places_.erase(it);
    if (place + 1 < ids_.size()) {
      ids_[place] = std::move(ids_.back());
      places_[ids_[place]] = place;
    }
    ids_.pop_back();
    return true;
  }

 private:
  std::vector<std::string> ids_;
  absl::flat_hash_map<std::string, size_t> places_;
};

}  // namespace

absl::StatusOr<std::vector<uint64_t>> Grid::WaitForNodes(int64_t count, absl::Time deadline) {
  const Countdown countdown(deadline - absl::Now());
  while (true) {
    std::vector<uint64_t> online = NodeIds();
    const absl::Duration left = countdown.left();
    if (static_cast<int64_t>(online.size()) >= count || left <= absl::ZeroDuration()) {
      return online;
    }
    // An empty pull fails if the server is stopping. It does not wait.
    FEDUMM_RETURN_IF_ERROR(PullMessages({}, absl::InfinitePast()).status());
    absl::SleepFor(std::min(absl::Milliseconds(50), left));
  }
}

absl::Status Grid::SendAndReceive(std::vector<Message> messages, absl::Duration timeout,
                                  const std::function<bool(Message reply)>& on_reply) {
  const Countdown countdown(timeout);
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<std::string> ids, PushMessages(std::move(messages)));
  Waiting waiting(ids);

  absl::Status status;
  bool enough = false;
  while (status.ok() && !enough && !waiting.ids().empty()) {
    absl::StatusOr<std::vector<Message>> replies =
        PullMessages(waiting.ids(), absl::Now() + countdown.left());
    status = replies.status();
    if (!status.ok() || replies->empty()) break;
    for (Message& reply : *replies) {
      if (!waiting.Erase(reply.metadata.reply_to_message_id)) continue;
      if (!on_reply(std::move(reply))) {
        enough = true;
        break;
      }
    }
  }
  if (!waiting.ids().empty()) Withdraw(waiting.ids());
  return status;
}

}  // namespace fedumm
