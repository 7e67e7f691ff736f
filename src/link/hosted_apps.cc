#include <algorithm>
#include <optional>
#include <set>
#include <string>

#include "link/link_state.h"

namespace fedumm::link {
namespace {

// From acquire-task to pull-task-input; then a heartbeat is due every minute.
constexpr absl::Duration kStartTimeout = absl::Seconds(30);
// How long a reply waits for others, so that they come in one answer: as long as Flower's own
// ServerApps wait between two pulls.
constexpr absl::Duration kGather = absl::Seconds(3);

}  // namespace

bool LinkState::FinishRun(uint64_t run_id, std::string_view sub_status, const std::string& details,
                          Answers& answers) {
  if (!runs.Finish(run_id, sub_status, details, options.clock())) return false;
  apps.tokens.Revoke(run_id);
  mailbox.DropRun(run_id);
  objects.Release(apps.replies.DropRun(run_id));
  std::erase_if(apps.pulls, [&](auto& item) {
    if (item.second.run_id != run_id) return false;
    answers.Add(std::move(item.second.ready));
    return true;
  });
  WakeLogReaders(run_id, answers);
  NotifyWaiters(answers);
  return true;
}

void LinkState::OfferRuns(Answers& answers) {
  while (!apps.acquires.empty()) {
    const std::optional<uint64_t> run_id = runs.StartOldest(options.clock());
    if (!run_id.has_value()) return;
    const auto oldest = apps.acquires.begin();
    const flwr::proto::Run& run = *runs.Find(*run_id);
    flwr::proto::AcquireTaskResponse response;
    flwr::proto::Task& task = *response.mutable_task();
    task.set_task_id(run.primary_task_id());
    task.set_type(run.primary_task_type());
    task.set_run_id(*run_id);
    task.mutable_status()->set_status(run.status().status());
    task.set_pending_at(run.pending_at());
    task.set_starting_at(run.starting_at());
    task.set_fab_hash(run.fab_hash());
    response.set_token(apps.tokens.Issue(*run_id, oldest->first, options.timer() + kStartTimeout));
    answers.Add([done = std::move(oldest->second.done), response = std::move(response)]() mutable {
      done(std::move(response));
    });
    apps.acquires.erase(oldest);
    timer_changed.NotifyOne();
  }
}

void LinkState::WakeApps(Answers& answers) {
  const absl::Time now = options.timer();
  for (auto it = apps.pulls.begin(); it != apps.pulls.end();) {
    HostedApps::Pull& pull = it->second;
    pull.recheck = absl::InfiniteFuture();
    while (!pull.pending.empty()) {
      const std::string& id = pull.pending.back();
      const std::optional<absl::Time> end =
          mailbox.Pending(pull.run_id, id, nodes.GoneAt(mailbox.Destination(id)), now);
      if (end.has_value()) {
        pull.recheck = *end;
        break;
      }
      pull.pending.pop_back();
    }
    if (!pull.gathers) {
      const std::set<std::string>& answered = mailbox.Answered(pull.run_id);
      pull.gathers = pull.pending.size() < pull.num_asked ||
                     std::any_of(answered.begin(), answered.end(),
                                 [&](const std::string& id) { return pull.all.contains(id); });
      if (pull.gathers) {
        pull.until = std::min(pull.until, now + kGather);
        timer_changed.NotifyOne();
      }
    }
    if (pull.pending.empty() || now >= pull.until) {
      answers.Add(std::move(pull.ready));
      it = apps.pulls.erase(it);
    } else {
      ++it;
    }
  }
}

void LinkState::WakeLogReaders(uint64_t run_id, Answers& answers) {
  for (const auto& [ticket, reader] : apps.log_readers) {
    if (reader.first == run_id) answers.Add(reader.second);
  }
}

void LinkState::ExpireApps(absl::Time now, Answers& answers) {
  for (const uint64_t run_id : apps.tokens.Expired(now)) {
    apps.tokens.Revoke(run_id);
    if (!runs.Requeue(run_id)) {
      FinishRun(run_id, kFailed, "No heartbeat received from the task", answers);
    }
  }
  OfferRuns(answers);
  WakeApps(answers);
  std::erase_if(apps.acquires, [&](auto& item) {
    if (now < item.second.until) return false;
    answers.Add([done = std::move(item.second.done)] { done(flwr::proto::AcquireTaskResponse()); });
    return true;
  });
}

absl::Time LinkState::NextAppsDue() const {
  absl::Time due = apps.tokens.next_end();
  for (const auto& [ticket, pull] : apps.pulls) {
    due = std::min({due, pull.until, pull.recheck});
  }
  for (const auto& [ticket, acquire] : apps.acquires) due = std::min(due, acquire.until);
  return due;
}

void LinkState::StopApps(Answers& answers) {
  for (auto& [ticket, pull] : apps.pulls) answers.Add(std::move(pull.ready));
  apps.pulls.clear();
  for (auto& [ticket, acquire] : apps.acquires) {
    answers.Add([done = std::move(acquire.done)] { done(flwr::proto::AcquireTaskResponse()); });
  }
  apps.acquires.clear();
  for (const auto& [ticket, reader] : apps.log_readers) answers.Add(reader.second);
}

}  // namespace fedumm::link
