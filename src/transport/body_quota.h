#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"

namespace fedumm::transport {

// A memory budget for large request bodies. A body is granted all the bytes it needs, or it waits:
// a body that was granted can always be received to its end. FIFO; the bodies of one peer together
// have at most a quarter of the budget. While bodies wait, the slowest body that is being received
// is cancelled, one every few seconds, unless it arrives at 1 MiB/s or faster; if only bodies of
// one peer wait for that peer's share, the slowest of that peer. A body larger than the budget is
// granted when no other body is. Thread-safe.
class BodyQuota {
 public:
  using Clock = std::chrono::steady_clock;
  // Identifies a body until it is given back or withdrawn.
  using Id = const void*;

  explicit BodyQuota(int64_t limit) : limit_(limit), share_(limit / 4) {}

  // True if the bytes were granted at once. Otherwise `granted` is called as soon as they are,
  // unless Withdraw is called first. `peer` is the sender: "" for one without a share limit.
  bool Take(Id id, int64_t num_bytes, const std::string& peer, Clock::time_point now,
            std::function<void()> granted);
  // Ends its wait. No effect if it does not wait.
  void Withdraw(Id id);
  // The body was received to its end: it is not cancelled any more.
  void Received(Id id);
  void Give(int64_t num_bytes, const std::string& peer);

  // Called about every second by each waiting body: marks the slowest body if one must be
  // cancelled.
  void CancelSlowestBody(Clock::time_point now);
  // Called about every second by each body that is being received, of which `num_bytes` have
  // arrived. Whether it was cancelled.
  bool IsCancelled(Id id, int64_t num_bytes);

 private:
  struct Waiting {
    Id id = nullptr;
    int64_t num_bytes = 0;
    std::string peer;
    Clock::time_point since;
    std::function<void()> granted;
  };
  struct Receiving {
    std::string peer;
    int64_t num_bytes = 0;
    Clock::time_point since;
    bool cancelled = false;
  };

  bool HasRoom(int64_t num_bytes, const std::string& peer) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool HasShare(int64_t num_bytes, const std::string& peer) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Grant(Id id, int64_t num_bytes, const std::string& peer, Clock::time_point now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The first waiting body whose bytes can be granted now.
  std::deque<Waiting>::iterator Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const int64_t limit_;
  const int64_t share_;
  Mutex mu_;
  int64_t used_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<std::string, int64_t> used_by_ ABSL_GUARDED_BY(mu_);
  std::map<Id, Receiving> receiving_ ABSL_GUARDED_BY(mu_);
  std::deque<Waiting> waiting_ ABSL_GUARDED_BY(mu_);
  Clock::time_point last_cancelled_at_ ABSL_GUARDED_BY(mu_) = Clock::time_point::min();
};

// Bytes granted by the quota. Destruction gives them back.
class Reservation {
 public:
  Reservation() = default;
  Reservation(std::shared_ptr<BodyQuota> quota, BodyQuota::Id id, int64_t num_bytes,
              std::string peer)
      : quota_(std::move(quota)), id_(id), num_bytes_(num_bytes), peer_(std::move(peer)) {}
  Reservation(Reservation&& other) noexcept { *this = std::move(other); }
  Reservation& operator=(Reservation&& other) noexcept {
    Release();
    quota_ = std::move(other.quota_);
    id_ = std::exchange(other.id_, nullptr);
    num_bytes_ = std::exchange(other.num_bytes_, 0);
    peer_ = std::move(other.peer_);
    return *this;
  }
  ~Reservation() { Release(); }

  int64_t num_bytes() const { return num_bytes_; }
  // The body was received to its end, and has this length.
  void Received(int64_t num_bytes) {
    if (num_bytes_ == 0) return;
    quota_->Received(std::exchange(id_, nullptr));
    if (num_bytes >= num_bytes_) return;
    quota_->Give(num_bytes_ - num_bytes, peer_);
    num_bytes_ = num_bytes;
  }
  void Release() {
    if (num_bytes_ > 0) {
      if (id_ != nullptr) quota_->Received(id_);
      quota_->Give(std::exchange(num_bytes_, 0), peer_);
    }
    quota_.reset();
  }

 private:
  std::shared_ptr<BodyQuota> quota_;
  BodyQuota::Id id_ = nullptr;
  int64_t num_bytes_ = 0;
  std::string peer_;
};

}  // namespace fedumm::transport
