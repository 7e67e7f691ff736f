#include "link/link_state.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/text.h"

namespace fedumm::link {
namespace {

// Pulls that collide within a minute, so many that they are no lost connection.
constexpr int kCollisionsOfTwo = 4;
constexpr absl::Duration kCollisionPeriod = absl::Minutes(1);
constexpr size_t kMaxCollisions = 1000;

}  // namespace

absl::Time MonotonicNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

void LinkState::Report(uint64_t node, std::string_view what, Answers& answers) {
  const std::optional<int64_t> left_out = events.Admit(/*source=*/0, options.timer());
  if (!left_out.has_value()) return;
  std::string event = absl::StrCat("node ", node, " ", Text(what), nodes.Describe(node), "; ",
                                   nodes.num_online(), " online");
  if (*left_out > 0) absl::StrAppend(&event, " (", *left_out, " such lines were left out)");
  answers.Add([this, event = std::move(event)] {
    Log()->info("{}", event);
    if (options.on_event) options.on_event(event);
  });
}

void LinkState::CheckSharedKey(uint64_t node, const std::string& other, const std::string& address,
                               Answers& answers) {
  const absl::Time now = options.timer();
  if (collisions.size() >= kMaxCollisions) {
    std::erase_if(collisions, [&](const auto& item) {
      return now - std::max(item.second.since, item.second.told) > kCollisionPeriod;
    });
    if (collisions.size() >= kMaxCollisions) return;
  }
  Collisions& seen = collisions[node];
  if (now - seen.since > kCollisionPeriod) {
    seen.since = now;
    seen.count = 0;
  }
  if (++seen.count < kCollisionsOfTwo || now - seen.told < kCollisionPeriod) return;
  seen.told = now;
  std::string event =
      absl::StrCat("two live nodes use one key, that of node ", node, nodes.Describe(node),
                   ": calls come from ", other.empty() ? "an unknown address" : other, " and ",
                   address.empty() ? "an unknown address" : address,
                   ". Each node needs a key of its own, or they take each other's messages");
  answers.Add([this, event = std::move(event)] {
    Log()->warn("{}", event);
    if (options.on_event) options.on_event(event);
  });
}

void LinkState::Warn(uint64_t node, std::string_view what, Answers& answers) {
  const std::optional<int64_t> left_out = warnings.Admit(node, options.timer());
  if (!left_out.has_value()) return;
  answers.Add([node, left_out = *left_out, what = Printable(Text(what))] {
    Log()->warn("node {}: {}{}", node, what,
                left_out > 0 ? absl::StrCat(" (", left_out, " such lines were left out)") : "");
  });
}

void LinkState::OpenGate(Answers& answers) {
  for (std::function<void()>& go : gate.Open(options.timer())) answers.Add(std::move(go));
}

void LinkState::NotifyWaiters(Answers& answers) {
  changed_.NotifyAll();
  WakeApps(answers);
  timer_changed.NotifyOne();  // a lease may end earlier now
}

void LinkState::Deliver(uint64_t node, Answers& answers) {
  const HeldPulls::Pull* held = pulls.Find(node);
  if (held == nullptr) return;
  std::optional<Mailbox::Offered> offered = mailbox.Offer(node, held->ticket, options.timer());
  if (!offered.has_value()) return;
  nodes.MarkInstructed(node);
  answers.Add([done = pulls.Take(node)->done, offered = *std::move(offered)] {
    flwr::proto::PullMessagesResponse response;
    *response.add_messages_list() = offered.Message();
    *response.add_message_object_trees() = offered.Tree();
    done(std::move(response));
  });
  timer_changed.NotifyOne();
}

}  // namespace fedumm::link
