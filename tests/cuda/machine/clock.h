// Vector clocks. An agent is a thread of the running cluster, or something that reads and writes
// shared memory on behalf of threads: an mbarrier (for the TMA copies that complete on it), a warp
// group's wgmma, a thread's bulk stores.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

namespace fedumm::cuda_machine {

using Agent = uint16_t;
inline constexpr Agent kNoAgent = 0xffff;

// What is ordered before a thread's next step: seen[a] of each agent a, and `own` of the thread
// itself. Threads that met at a barrier share one immutable `seen`.
struct Clock {
  const uint32_t* seen = nullptr;
  uint32_t own = 0;
};

// Owns the immutable clocks of a running cluster.
class ClockArena {
 public:
  explicit ClockArena(size_t agents) : agents_(agents) {
    zero_ = Allocate();
    std::fill_n(zero_, agents_, 0);
  }
  size_t agents() const { return agents_; }
  const uint32_t* zero() const { return zero_; }

  const uint32_t* Copy(const std::vector<uint32_t>& clock) {
    uint32_t* out = Allocate();
    std::copy_n(clock.data(), agents_, out);
    return out;
  }
  // The maximum of both. Threads of a warp group ask for the same one after the other.
  const uint32_t* Join(const uint32_t* a, const uint32_t* b) {
    if (a == b || b == zero_) return a;
    if (a == zero_) return b;
    for (const Joined& j : joined_) {
      if (j.a == a && j.b == b) return j.result;
    }
    uint32_t* out = Allocate();
    for (size_t i = 0; i < agents_; ++i) out[i] = std::max(a[i], b[i]);
    joined_[next_joined_++ % kMemory] = {a, b, out};
    return out;
  }
  // `a` with at least `time` of `agent`.
  const uint32_t* With(const uint32_t* a, Agent agent, uint32_t time) {
    if (a[agent] >= time) return a;
    for (const Advanced& j : advanced_) {
      if (j.a == a && j.agent == agent && j.time == time) return j.result;
    }
    uint32_t* out = Allocate();
    std::copy_n(a, agents_, out);
    out[agent] = time;
    advanced_[next_advanced_++ % kMemory] = {a, agent, time, out};
    return out;
  }

 private:
  static constexpr size_t kMemory = 8;
  static constexpr size_t kChunk = size_t{1} << 16;
  struct Joined {
    const uint32_t *a, *b, *result;
  };
  struct Advanced {
    const uint32_t* a;
    Agent agent;
    uint32_t time;
    const uint32_t* result;
  };

  uint32_t* Allocate() {
    if (chunks_.empty() || used_ + agents_ > std::max(kChunk, agents_)) {
      chunks_.push_back(std::make_unique<uint32_t[]>(std::max(kChunk, agents_)));
      used_ = 0;
    }
    uint32_t* out = chunks_.back().get() + used_;
    used_ += agents_;
    return out;
  }

  size_t agents_;
  std::vector<std::unique_ptr<uint32_t[]>> chunks_;
  size_t used_ = 0;
  uint32_t* zero_;
  Joined joined_[kMemory] = {};
  Advanced advanced_[kMemory] = {};
  size_t next_joined_ = 0, next_advanced_ = 0;
};

// The clocks of those who arrived at a barrier, joined.
class ClockSum {
 public:
  void Add(const Clock& clock, Agent agent, size_t agents) {
    if (sum_.empty()) sum_.assign(agents, 0);
    if (clock.seen != last_) {
      for (size_t i = 0; i < agents; ++i) sum_[i] = std::max(sum_[i], clock.seen[i]);
      last_ = clock.seen;
    }
    sum_[agent] = std::max(sum_[agent], clock.own);
  }
  void Advance(Agent agent, uint32_t time, size_t agents) {
    if (sum_.empty()) sum_.assign(agents, 0);
    sum_[agent] = std::max(sum_[agent], time);
  }
  // Hands the sum over to the arena and starts again.
  const uint32_t* Take(ClockArena& arena) {
    last_ = nullptr;
    if (sum_.empty()) return arena.zero();
    const uint32_t* out = arena.Copy(sum_);
    std::fill(sum_.begin(), sum_.end(), 0);
    return out;
  }

 private:
  std::vector<uint32_t> sum_;
  const uint32_t* last_ = nullptr;
};

}  // namespace fedumm::cuda_machine
