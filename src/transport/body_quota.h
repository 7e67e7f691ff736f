#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"

namespace fedumm::transport {

// Memory for large bodies. First come, first served, and each gets all it needs or waits, so that
// those that were let in can always be finished. Thread-safe.
class BodyQuota {
 public:
  explicit BodyQuota(int64_t limit) : limit_(limit) {}

  // True if the bytes were granted at once. Otherwise `granted` is called as soon as they are,
  // unless Withdraw comes first.
  bool Take(int64_t num_bytes, const void* who, std::function<void()> granted) {
    MutexLock lock(mu_);
    if (waiting_.empty() && used_ + num_bytes <= limit_) {
      used_ += num_bytes;
      return true;
    }
    waiting_.push_back({num_bytes, who, std::move(granted)});
    return false;
  }
  void Withdraw(const void* who) {
    Waiting withdrawn;  // destroyed after the lock
    {
      MutexLock lock(mu_);
      const auto it = std::find_if(waiting_.begin(), waiting_.end(),
                                   [&](const Waiting& waiting) { return waiting.who == who; });
      if (it == waiting_.end()) return;
      withdrawn = std::move(*it);
      waiting_.erase(it);
    }
    Give(0);
  }
  void Give(int64_t num_bytes) {
    std::vector<std::function<void()>> granted;
    {
      MutexLock lock(mu_);
      used_ -= num_bytes;
      while (!waiting_.empty() && used_ + waiting_.front().num_bytes <= limit_) {
        used_ += waiting_.front().num_bytes;
        granted.push_back(std::move(waiting_.front().granted));
        waiting_.pop_front();
      }
    }
    for (const std::function<void()>& call : granted) call();
  }

 private:
  struct Waiting {
    int64_t num_bytes = 0;
    const void* who = nullptr;
    std::function<void()> granted;
  };
  const int64_t limit_;
  Mutex mu_;
  int64_t used_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<Waiting> waiting_ ABSL_GUARDED_BY(mu_);
};

// Bytes of the quota, given back when this goes.
class Reservation {
 public:
  Reservation() = default;
  Reservation(std::shared_ptr<BodyQuota> quota, int64_t num_bytes)
      : quota_(std::move(quota)), num_bytes_(num_bytes) {}
  Reservation(Reservation&& other) noexcept { *this = std::move(other); }
  Reservation& operator=(Reservation&& other) noexcept {
    Release();
    quota_ = std::move(other.quota_);
    num_bytes_ = std::exchange(other.num_bytes_, 0);
    return *this;
  }
  ~Reservation() { Release(); }

  int64_t num_bytes() const { return num_bytes_; }
  void ShrinkTo(int64_t num_bytes) {
    if (num_bytes >= num_bytes_) return;
    quota_->Give(num_bytes_ - num_bytes);
    num_bytes_ = num_bytes;
  }
  void Release() {
    if (num_bytes_ > 0) quota_->Give(std::exchange(num_bytes_, 0));
    quota_.reset();
  }

 private:
  std::shared_ptr<BodyQuota> quota_;
  int64_t num_bytes_ = 0;
};

}  // namespace fedumm::transport
