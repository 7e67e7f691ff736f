#include "transport/body_quota.h"

#include <algorithm>
#include <set>
#include <vector>

namespace fedumm::transport {
namespace {

constexpr auto kMinWait = std::chrono::seconds(3);  // before a body is cancelled for another
constexpr double kFastBytesPerSecond = 1 << 20;

}  // namespace

bool BodyQuota::HasShare(int64_t num_bytes, const std::string& peer) const {
  const auto used = used_by_.find(peer);
  return peer.empty() || used == used_by_.end() || used->second + num_bytes <= share_;
}

bool BodyQuota::HasRoom(int64_t num_bytes, const std::string& peer) const {
  return (used_ == 0 || used_ + num_bytes <= limit_) && HasShare(num_bytes, peer);
}

void BodyQuota::Grant(Id id, int64_t num_bytes, const std::string& peer, Clock::time_point now) {
  used_ += num_bytes;
  used_by_[peer] += num_bytes;
  receiving_[id] = {.peer = peer, .since = now};
}

bool BodyQuota::Take(Id id, int64_t num_bytes, const std::string& peer, Clock::time_point now,
                     std::function<void()> granted) {
  MutexLock lock(mu_);
  const bool others_first =
      std::any_of(waiting_.begin(), waiting_.end(),
                  [&](const Waiting& waiting) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
                    return waiting.peer == peer || HasShare(waiting.num_bytes, waiting.peer);
                  });
  if (!others_first && HasRoom(num_bytes, peer)) {
    Grant(id, num_bytes, peer, now);
    return true;
  }
  waiting_.push_back({id, num_bytes, peer, now, std::move(granted)});
  return false;
}

void BodyQuota::Withdraw(Id id) {
  Waiting withdrawn;  // destroyed after the lock
  {
    MutexLock lock(mu_);
    const auto it = std::find_if(waiting_.begin(), waiting_.end(),
                                 [&](const Waiting& waiting) { return waiting.id == id; });
    if (it == waiting_.end()) return;
    withdrawn = std::move(*it);
    waiting_.erase(it);
  }
  Give(0, withdrawn.peer);
}

void BodyQuota::Received(Id id) {
  MutexLock lock(mu_);
  receiving_.erase(id);
}

std::deque<BodyQuota::Waiting>::iterator BodyQuota::Next() {
  // A body that waits for its peer's share does not block the bodies of other peers.
  const auto first = std::find_if(waiting_.begin(), waiting_.end(),
                                  [&](const Waiting& waiting) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
                                    return HasShare(waiting.num_bytes, waiting.peer);
                                  });
  const bool fits = first != waiting_.end() && HasRoom(first->num_bytes, first->peer);
  return fits ? first : waiting_.end();
}

void BodyQuota::Give(int64_t num_bytes, const std::string& peer) {
  std::vector<std::function<void()>> granted;
  {
    MutexLock lock(mu_);
    used_ -= num_bytes;
    if (const auto used = used_by_.find(peer); used != used_by_.end()) {
      used->second -= num_bytes;
      if (used->second == 0) used_by_.erase(used);
    }
    for (auto next = Next(); next != waiting_.end(); next = Next()) {
      Grant(next->id, next->num_bytes, next->peer, Clock::now());
      granted.push_back(std::move(next->granted));
      waiting_.erase(next);
    }
  }
  for (const std::function<void()>& call : granted) call();
}

void BodyQuota::CancelSlowestBody(Clock::time_point now) {
  MutexLock lock(mu_);
  if (last_cancelled_at_ != Clock::time_point::min() && now - last_cancelled_at_ < kMinWait) return;
  bool needed_by_any_peer = false;
  std::set<std::string> needed_by;  // peers
  for (const Waiting& waiting : waiting_) {
    if (now - waiting.since < kMinWait) continue;
    if (HasShare(waiting.num_bytes, waiting.peer)) {
      needed_by_any_peer = true;
    } else {
      needed_by.insert(waiting.peer);
    }
  }
  Receiving* slowest = nullptr;
  double slowest_rate = kFastBytesPerSecond;
  for (auto& [id, receiving] : receiving_) {
    const std::chrono::duration<double> elapsed = now - receiving.since;
    if (elapsed < kMinWait || !(needed_by_any_peer || needed_by.contains(receiving.peer))) continue;
    const double rate = static_cast<double>(receiving.num_bytes) / elapsed.count();
    if (rate >= slowest_rate) continue;
    slowest = &receiving;
    slowest_rate = rate;
  }
  if (slowest == nullptr) return;
  slowest->cancelled = true;
  last_cancelled_at_ = now;
}

bool BodyQuota::IsCancelled(Id id, int64_t num_bytes) {
  MutexLock lock(mu_);
  const auto it = receiving_.find(id);
  if (it == receiving_.end()) return false;
  it->second.num_bytes = num_bytes;
  return it->second.cancelled;
}

}  // namespace fedumm::transport
