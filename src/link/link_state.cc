#include "link/link_state.h"

#include <chrono>
#include <optional>
#include <utility>

namespace fedumm::link {

absl::Time MonotonicNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

void LinkState::OpenGate(Answers& answers) {
  for (std::function<void()>& go : gate.Open(options.timer())) answers.Add(std::move(go));
}

void LinkState::NotifyWaiters(Answers& answers) {
  changed_.NotifyAll();
  const absl::Time due = NextAppsDue();
  WakeApps(answers);
  if (NextAppsDue() < due) timer_changed.NotifyOne();
}

void LinkState::Deliver(uint64_t node, Answers& answers) {
  const HeldPulls::Pull* held = pulls.Find(node);
  if (held == nullptr) return;
  std::optional<Mailbox::Offered> offered = mailbox.Offer(node, held->ticket, options.timer());
  if (!offered.has_value()) return;
  answers.Add([done = pulls.Take(node)->done, offered = *std::move(offered)] {
    flwr::proto::PullMessagesResponse response;
    *response.add_messages_list() = offered.Message();
    *response.add_message_object_trees() = offered.Tree();
    done(std::move(response));
  });
  timer_changed.NotifyOne();
}

}  // namespace fedumm::link
