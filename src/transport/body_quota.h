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

// Memory for large bodies. Each gets all it needs or waits, so that those that were let in can
// always be finished; first come, first served, but that the bodies of one peer together have no
// more than a quarter of it at once. While others wait, the slowest body must make way (the
// slowest of its peer for one that waits for its share), one every few seconds, unless it comes at
// 1 MiB/s. A body that is larger than what there is gets it alone.
// Thread-safe.
class BodyQuota {
 public:
  using Clock = std::chrono::steady_clock;
  // What tells the bodies apart, until they are given back or withdrawn.
  using Id = const void*;

  explicit BodyQuota(int64_t limit) : limit_(limit), share_(limit / 4) {}

  // True if the bytes were granted at once. Otherwise `granted` is called as soon as they are,
  // unless Withdraw comes first. `peer` is who sends: "" for one that may have more than its share.
  bool Take(Id id, int64_t num_bytes, const std::string& peer, Clock::time_point now,
            std::function<void()> granted);
  // It waits no more; no effect if it does not.
  void Withdraw(Id id);
  // It has come whole, and is as long as this: it need not make way any more.
  void Received(Id id);
  void Give(int64_t num_bytes, const std::string& peer);

  // To be called about every second by those that wait.
  void Squeeze(Clock::time_point now);
  // To be called about every second by those that come: whether it must make way. `num_bytes` have
  // come so far.
  bool MustGo(Id id, int64_t num_bytes);

 private:
  struct Waiting {
    Id id = nullptr;
    int64_t num_bytes = 0;
    std::string peer;
    Clock::time_point since;
    std::function<void()> granted;
  };
  struct Coming {
    std::string peer;
    int64_t num_bytes = 0;
    Clock::time_point since;
    bool must_go = false;
  };

  bool HasRoom(int64_t num_bytes, const std::string& peer) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool HasShare(int64_t num_bytes, const std::string& peer) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Grant(Id id, int64_t num_bytes, const std::string& peer, Clock::time_point now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The first that may have what it waits for.
  std::deque<Waiting>::iterator Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const int64_t limit_;
  const int64_t share_;
  Mutex mu_;
  int64_t used_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<std::string, int64_t> used_by_ ABSL_GUARDED_BY(mu_);
  std::map<Id, Coming> coming_ ABSL_GUARDED_BY(mu_);
  std::deque<Waiting> waiting_ ABSL_GUARDED_BY(mu_);
  Clock::time_point squeezed_at_ ABSL_GUARDED_BY(mu_) = Clock::time_point::min();
};

// Bytes of the quota, given back when this goes.
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
  // The body has come whole, and has this length.
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
