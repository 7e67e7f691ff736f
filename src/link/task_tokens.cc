#include "link/task_tokens.h"

#include "base/sha256.h"
#include "link/random_id.h"

namespace fedumm::link {

std::string TaskTokens::Issue(uint64_t run_id, uint64_t ticket, absl::Time until) {
  Revoke(run_id);
  std::string token;
  while (token.size() < 256) token += RandomSession();
  Task task{.token_hash = Sha256Hex(token), .ticket = ticket, .until = until};
  runs_.emplace(task.token_hash, run_id);
  ends_.emplace(until, run_id);
  tasks_.emplace(run_id, std::move(task));
  return token;
}

void TaskTokens::Revoke(uint64_t run_id) {
  const auto it = tasks_.find(run_id);
  if (it == tasks_.end()) return;
  runs_.erase(it->second.token_hash);
  ends_.erase({it->second.until, run_id});
  tasks_.erase(it);
}

void TaskTokens::Renew(uint64_t run_id, absl::Time until) {
  const auto it = tasks_.find(run_id);
  if (it == tasks_.end()) return;
  ends_.erase({it->second.until, run_id});
  it->second.until = until;
  ends_.emplace(until, run_id);
}

std::optional<uint64_t> TaskTokens::Find(std::string_view token) const {
  const auto it = runs_.find(Sha256Hex(token));
  if (it == runs_.end()) return std::nullopt;
  return it->second;
}

std::optional<uint64_t> TaskTokens::FindTicket(uint64_t ticket) const {
  for (const auto& [run_id, task] : tasks_) {
    if (task.ticket == ticket) return run_id;
  }
  return std::nullopt;
}

std::vector<uint64_t> TaskTokens::Expired(absl::Time now) const {
  std::vector<uint64_t> runs;
  for (const auto& [end, run_id] : ends_) {
    if (end > now) break;
    runs.push_back(run_id);
  }
  return runs;
}

absl::Time TaskTokens::next_end() const {
  return ends_.empty() ? absl::InfiniteFuture() : ends_.begin()->first;
}

}  // namespace fedumm::link
