// The state of one launch on the emulated machine: threads, warps, blocks and warp groups of the
// running cluster, and what is in flight. The instructions act on it (barriers.h, async_copy.h,
// tensor.h, wgmma.h, memory_instructions.cc).
#pragma once

#include <bit>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/cuda/machine/clock.h"
#include "tests/cuda/machine/device.h"
#include "tests/cuda/machine/program.h"
#include "tests/cuda/machine/shared_memory.h"

namespace fedumm::cuda_machine {

// Generic addresses of what is not global memory.
inline constexpr uint64_t kSharedWindow = uint64_t{1} << 62;
inline constexpr uint64_t kLocalWindow = uint64_t{1} << 61;
inline constexpr uint64_t kParamWindow = uint64_t{1} << 60;
// shared::cluster address = (rank + 1) << kRankShift | offset
inline constexpr uint32_t kRankShift = 24;

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t Count() const { return uint64_t{x} * y * z; }
};

class Machine;
struct Block;
struct Thread;
struct Warp;

// Calls fn(lane) for each lane of the mask.
template <typename Function>
inline void ForEachLane(uint32_t mask, Function fn) {
  if (mask == ~uint32_t{0}) {
    for (int lane = 0; lane < 32; ++lane) fn(lane);
    return;
  }
  for (; mask != 0; mask &= mask - 1) fn(std::countr_zero(mask));
}

struct CpAsync {
  uint32_t group;  // number of the commit that closes its group
  uint32_t offset, bytes, valid;
  const uint8_t* source;
};

struct TensorMap;

struct BulkStore {
  uint32_t group;
  uint32_t offset, bytes;  // of shared memory
  const TensorMap* map;    // null: contiguous
  int32_t coordinates[5];
  uint8_t* target;
  const Instruction* in;
};

struct Thread {
  Dim3 tid;
  int linear = 0, lane = 0;
  Agent agent = 0;
  Block* block = nullptr;
  Warp* warp = nullptr;
  Clock clock;   // what happened before this thread's next step
  Clock fenced;  // the part of it that the async proxy may see
  std::vector<CpAsync> copies;
  uint32_t copies_committed = 0;
  std::vector<BulkStore> stores;
  uint32_t stores_committed = 0;
  Agent bulk_agent = kNoAgent;
  bool wgmma_fenced = false;
  uint32_t wgmma_committed = 0;
  uint32_t cluster_phase = 0;  // phase of the cluster barrier that it has arrived at
  bool cluster_arrived = false;
  const char* waits_for = "";
  const Instruction* waits_at = nullptr;
};

struct Warp {
  Machine* machine = nullptr;
  const Program* program = nullptr;
  Thread* threads = nullptr;  // 32 of them; those that the block lacks are done
  uint32_t live = 0, blocked = 0;
  uint32_t executing = 0;  // lanes of the current instruction before its guard
  int pc[32] = {};
  bool yields = false;  // ends the burst after this instruction
  std::unique_ptr<uint64_t[]> registers;
  std::vector<uint32_t> predicates;
  std::vector<uint8_t> local, local_has_value;  // [lane][byte]

  uint32_t* Narrow(Row row) {
    return reinterpret_cast<uint32_t*>(reinterpret_cast<uint8_t*>(registers.get()) + row.at);
  }
  uint64_t* Wide(Row row) {
    return reinterpret_cast<uint64_t*>(reinterpret_cast<uint8_t*>(registers.get()) + row.at);
  }
  uint64_t Get(Row row, int lane) { return row.wide ? Wide(row)[lane] : Narrow(row)[lane]; }
  void Set(Row row, int lane, uint64_t value) {
    if (row.wide)
      Wide(row)[lane] = value;
    else
      Narrow(row)[lane] = static_cast<uint32_t>(value);
  }
  void SetPredicate(uint32_t predicate, int lane, bool value) {
    predicates[predicate] = (predicates[predicate] & ~(1u << lane)) | uint32_t{value} << lane;
  }
};

struct NamedBarrier {
  struct Waiter {
    Thread* thread;
    const Instruction* in;
  };
  uint32_t expected = 0, arrived = 0;  // expected 0: all threads of the block that are left
  ClockSum sum, fenced;
  std::vector<Waiter> waiters;
  uint32_t votes = 0, voters = 0;  // of barrier.red
};

struct MBarrier {
  struct Waiter {
    Thread* thread;
    uint32_t parity;
  };
  uint32_t count = 0, pending = 0;
  int64_t tx = 0;
  uint32_t phase = 0;
  Agent agent = kNoAgent;
  const Thread* initialiser = nullptr;
  bool fenced_init = false;  // visible to the async proxy and to the cluster
  ClockSum sum, fenced;
  const uint32_t *done = nullptr, *done_fenced = nullptr;
  std::vector<Waiter> waiters;
};

struct Block {
  Dim3 index;
  uint32_t rank = 0;
  uint64_t linear = 0;
  uint32_t live = 0;  // threads that have not exited
  SharedMemory shared;
  NamedBarrier named[16];
  std::map<uint32_t, MBarrier> mbarriers;  // by offset
};

struct ClusterBarrier {
  uint32_t phase = 0, arrived = 0;
  ClockSum sum, fenced;
  const uint32_t *done = nullptr, *done_fenced = nullptr;
  std::vector<Thread*> waiters;
};

struct BulkLoad {
  Block* block;
  uint32_t offset, bytes;
  Block* barrier_block;
  uint32_t barrier;  // offset
  Agent agent;
  uint32_t time;
  const TensorMap* map;  // null: contiguous from `source`
  int32_t coordinates[5];
  const uint8_t* source;
  Thread* thread;
  const Instruction* in;
};

struct Wgmma;  // wgmma.h
struct WarpGroup;

struct LaunchShape {
  Dim3 grid, block;
  Dim3 cluster;
  uint32_t dynamic_shared = 0;
};

class Machine {
 public:
  Machine(Device& device, const Program& program, const LaunchShape& shape,
          std::vector<uint8_t> params);
  ~Machine();

  // Runs all blocks, a cluster at a time.
  void Run();

  __attribute__((format(printf, 4, 5))) void Fail(const Thread* thread, Kind kind,
                                                  const char* format, ...);

  // --- Memory; null if the access is refused ---
  uint8_t* AccessGlobal(const Thread& thread, uint64_t address, uint32_t bytes, bool write);
  uint8_t* AccessShared(Thread& thread, uint32_t address, uint32_t bytes, bool write);
  // The block and offset of a shared::cluster address; null if it is out of bounds.
  Block* ResolveShared(Thread& thread, uint32_t address, uint32_t bytes, uint32_t* offset);
  void ReportShared(const Thread* thread, uint32_t faults, Agent other);
  Accessor GenericAccessor(const Thread& thread) const;
  const uint8_t* ParamAt(const Thread& thread, uint64_t address, uint32_t bytes);

  // --- Clocks ---
  void Release(Thread& thread, ClockSum& sum, ClockSum& fenced);
  void Acquire(Thread& thread, const uint32_t* seen, const uint32_t* fenced);
  Agent NewAgent(const Thread& thread);

  void Wait(Thread& thread, const char* what, const Instruction* in) {
    thread.warp->blocked |= 1u << thread.lane;
    thread.waits_for = what;
    thread.waits_at = in;
  }
  void Wake(Thread& thread) { thread.warp->blocked &= ~(1u << thread.lane); }
  void Exit(Warp& warp, uint32_t mask);

  Device& device;
  const Program& program;
  const Options& options;
  LaunchShape shape;
  std::vector<uint8_t> params;
  std::mt19937_64 rng;
  uint64_t launch;
  uint32_t threads_per_block = 0;
  bool races = true;
  bool uses_proxy_fences = false;  // until the first one, nothing has to be carried

  // The running cluster.
  std::unique_ptr<ClockArena> clocks;
  std::vector<Block> blocks;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<WarpGroup> groups;
  ClusterBarrier cluster_barrier;
  std::vector<BulkLoad> loads;
  uint32_t live_threads = 0;
  const Instruction* current = nullptr;

 private:
  void StartCluster(uint64_t first_block);
  void RunCluster();
  void RunWarp(Warp& warp);
  void FinishCluster();
  void FillSpecials(Warp& warp);
  std::string Where(const Thread* thread, std::string* site) const;
  std::string AgentName(Agent agent) const;
  void ReportDeadlock();

  Agent next_agent_ = 0;
  uint64_t instructions_ = 0;
  std::vector<uint64_t> opcode_counts_;
  bool stopped_ = false;
};

}  // namespace fedumm::cuda_machine
