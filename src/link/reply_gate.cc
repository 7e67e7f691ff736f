#include "link/reply_gate.h"

#include <algorithm>
#include <utility>

namespace fedumm::link {

bool ReplyGate::Enter(const std::string& instruction_id, int64_t num_bytes, absl::Time now) {
  DropOld(now);
  if (inside_.contains(instruction_id)) return true;
  if (!held_.empty() || !HasRoom(num_bytes)) return false;
  Admit(instruction_id, num_bytes, now);
  return true;
}

std::function<void()> ReplyGate::Hold(const std::string& instruction_id, int64_t num_bytes,
                                      absl::Time now, Go go) {
  const auto before = std::find_if(held_.begin(), held_.end(), [&](const Held& held) {
    return held.instruction_id == instruction_id;
  });
  if (before != held_.end()) {
    std::swap(before->go, go);
    return [go = std::move(go)] { go(absl::UnavailableError("announced again meanwhile")); };
  }
  held_.push_back({.instruction_id = instruction_id,
                   .num_bytes = num_bytes,
                   .until = now + options_.longest_hold,
                   .num_left = num_left_,
                   .go = std::move(go)});
  return [] {};
}

void ReplyGate::Leave(const std::string& instruction_id) {
  const auto it = inside_.find(instruction_id);
  if (it == inside_.end()) return;
  bytes_inside_ -= it->second.num_bytes;
  inside_.erase(it);
  ++num_left_;
}

std::vector<std::function<void()>> ReplyGate::TakeReady(absl::Time now) {
  DropOld(now);
  std::vector<std::function<void()>> ready;
  while (!held_.empty() && (held_.front().until <= now || HasRoom(held_.front().num_bytes))) {
    Held next = std::move(held_.front());
    held_.pop_front();
    if (!HasRoom(next.num_bytes) && next.num_left != num_left_) {
      ready.emplace_back([go = std::move(next.go)] {
        go(absl::UnavailableError("the server's memory budget for replies is in use, try again"));
      });
      continue;
    }
    Admit(next.instruction_id, next.num_bytes, now);
    ready.emplace_back([go = std::move(next.go)] { go(absl::OkStatus()); });
  }
  return ready;
}

std::vector<std::function<void()>> ReplyGate::TakeAll() {
  std::vector<std::function<void()>> ready;
  for (Held& held : held_) {
    ready.emplace_back([go = std::move(held.go)] { go(absl::OkStatus()); });
  }
  held_.clear();
  return ready;
}

absl::Time ReplyGate::next_due() const {
  if (held_.empty()) return absl::InfiniteFuture();
  absl::Time due = held_.front().until;
  for (const auto& [id, inside] : inside_) due = std::min(due, inside.until);
  return due;
}

bool ReplyGate::HasRoom(int64_t num_bytes) const {
  return inside_.empty() || bytes_inside_ + num_bytes <= options_.max_bytes;
}

void ReplyGate::Admit(const std::string& instruction_id, int64_t num_bytes, absl::Time now) {
  const auto it = inside_.find(instruction_id);
  if (it != inside_.end()) bytes_inside_ -= it->second.num_bytes;
  inside_[instruction_id] = {.num_bytes = num_bytes, .until = now + options_.patience};
  bytes_inside_ += num_bytes;
}

void ReplyGate::DropOld(absl::Time now) {
  for (auto it = inside_.begin(); it != inside_.end();) {
    if (now >= it->second.until) {
      bytes_inside_ -= it->second.num_bytes;
      it = inside_.erase(it);
    } else {
      ++it;
    }
  }
}

}  // namespace fedumm::link
