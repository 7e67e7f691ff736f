#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "model/guarded.h"

namespace fedumm::model {

// Calls a function on a thread of its own, ahead of the one that takes the results in order. The
// results are those of calling it directly. For one consumer at a time.
template <typename Item>
class Prefetcher {
 public:
  using Produce = std::function<absl::StatusOr<Item>()>;

  // `produce` is called at most `count` times, at most `depth` (> 0) times more than Next was. What
  // it refers to must outlive the Prefetcher.
  Prefetcher(Produce produce, int64_t count, size_t depth)
      : produce_(std::move(produce)), depth_(depth), thread_([this, count] { Run(count); }) {}
  // Waits until the call that is running, if any, has returned.
  ~Prefetcher() {
    {
      const MutexLock lock(mu_);
      stopped_ = true;
      changed_.NotifyAll();
    }
    thread_.join();
  }
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  // The next result. The first error, or INTERNAL for an exception, is the last result: further
  // calls, as calls after the last of `count` results, are OUT_OF_RANGE.
  absl::StatusOr<Item> Next() {
    const MutexLock lock(mu_);
    while (results_.empty() && !finished_) changed_.Wait(mu_);
    if (results_.empty()) return absl::OutOfRangeError("there is no further result");
    changed_.NotifyAll();
    return TakeFirst();
  }

 private:
  void Run(int64_t count) {
    bool more = true;
    for (int64_t i = 0; more && i < count && WaitForSpace(); ++i) {
      absl::StatusOr<Item> result = Guarded(produce_);
      more = result.ok();
      const MutexLock lock(mu_);
      results_.push_back(std::move(result));
      changed_.NotifyAll();
    }
    const MutexLock lock(mu_);
    finished_ = true;
    changed_.NotifyAll();
  }

  absl::StatusOr<Item> TakeFirst() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    absl::StatusOr<Item> result = std::move(results_.front());
    results_.pop_front();
    return result;
  }

  // False if the consumer stopped.
  bool WaitForSpace() {
    const MutexLock lock(mu_);
    while (results_.size() >= depth_ && !stopped_) changed_.Wait(mu_);
    return !stopped_;
  }

  const Produce produce_;
  const size_t depth_;
  Mutex mu_;
  CondVar changed_;
  std::deque<absl::StatusOr<Item>> results_ ABSL_GUARDED_BY(mu_);
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace fedumm::model
