#include "fedumm/grid.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/time/clock.h"
#include "base/status_macros.h"

namespace fedumm {

absl::StatusOr<std::vector<uint64_t>> Grid::WaitForNodes(int64_t count, absl::Time deadline) {
  while (true) {
    std::vector<uint64_t> online = NodeIds();
    const absl::Time now = absl::Now();
    if (static_cast<int64_t>(online.size()) >= count || now >= deadline) return online;
    // A pull of nothing tells whether the server is stopping; it may return at once.
    FEDUMM_RETURN_IF_ERROR(PullMessages({}, now).status());
    absl::SleepFor(std::min(absl::Milliseconds(50), deadline - now));
  }
}

absl::Status Grid::SendAndReceive(std::vector<Message> messages, absl::Duration timeout,
                                  const std::function<bool(Message reply)>& on_reply) {
  const absl::Time deadline = absl::Now() + timeout;
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<std::string> ids, PushMessages(std::move(messages)));
  std::set<std::string> waiting(ids.begin(), ids.end());
  waiting.erase("");  // refused: there will be no reply

  absl::Status status;
  bool enough = false;
  while (status.ok() && !enough && !waiting.empty()) {
    absl::StatusOr<std::vector<Message>> replies =
        PullMessages({waiting.begin(), waiting.end()}, deadline);
    status = replies.status();
    if (!status.ok() || replies->empty()) break;
    for (Message& reply : *replies) {
      if (waiting.erase(reply.metadata.reply_to_message_id) == 0) continue;
      if (!on_reply(std::move(reply))) {
        enough = true;
        break;
      }
    }
  }
  if (!waiting.empty()) Withdraw({waiting.begin(), waiting.end()});
  return status;
}

}  // namespace fedumm
