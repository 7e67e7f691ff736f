// The shared memory of a block. It knows who wrote and who read each 2 bytes and when, so that an
// access that is not ordered after a conflicting one is found whatever the schedule was.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "tests/cuda/machine/clock.h"
#include "tests/cuda/machine/machine.h"

namespace fedumm::cuda_machine {

// Offsets of shared memory start here in the 32-bit address space; 0 is no valid address.
inline constexpr uint32_t kSharedBase = 0x400;

// Who accesses, what is ordered before the access, and who it is booked on.
struct Accessor {
  const uint32_t* seen = nullptr;  // null: ordering is not checked
  Agent thread = kNoAgent;         // ordered before the access up to `own`
  uint32_t own = 0;
  bool async_proxy = false;
  const uint32_t* fenced = nullptr;  // what a proxy fence has published; for the async proxy
  uint32_t fenced_own = 0;
  Agent booked_on = kNoAgent;
  uint32_t time = 0;

  bool Sees(Agent agent, uint32_t t) const { return t <= (agent == thread ? own : seen[agent]); }
  bool SeesFenced(Agent agent, uint32_t t) const {
    return t <= (agent == thread ? fenced_own : fenced[agent]);
  }
};

enum class AccessKind {
  kRead,
  kWrite,
  kIssue,  // an asynchronous write starts
};

class SharedMemory {
 public:
  // What an access found, as bits; several may be set.
  enum Fault : uint32_t {
    kNone = 0,
    kReadPending = 1,
    kReadUninitialised = 2,
    kReadRace = 4,
    kReadUnfenced = 8,
    kReadBarrier = 16,
    kWritePending = 32,
    kWriteWriteRace = 64,
    kWriteReadRace = 128,
    kWriteBarrier = 256,
    kWriteUnfenced = 512,
  };

  void Reset(uint32_t bytes, size_t agents);
  uint32_t size() const { return static_cast<uint32_t>(data_.size()); }
  uint8_t* data() { return data_.data(); }

  // Checks and books an access that is in bounds. `other` is set to the agent of a race.
  uint32_t Access(uint32_t offset, uint32_t bytes, AccessKind kind, const Accessor& by,
                  Agent* other);
  // An asynchronous write has arrived; it was ordered when it was issued.
  void Land(uint32_t offset, uint32_t bytes, Agent agent, uint32_t time, bool async_proxy);
  void SetBarrier(uint32_t offset, bool is_barrier);
  // False if the last write of the cell is not ordered before the accessor.
  bool WriteIsSeen(uint32_t offset, const Accessor& by);

 private:
  static constexpr uint8_t kValue = 1, kPendingWrite = 2, kAsync = 4, kBarrierCell = 8;
  static constexpr uint8_t kMany = 5;  // readers are in many_[r_time[0]], by agent

  struct Cell {
    uint32_t w_time = 0;
    Agent w_agent = 0;
    uint8_t state = 0;
    uint8_t readers = 0;
    Agent r_agent[4] = {};
    uint32_t r_time[4] = {};
  };
  // 16 bytes. One cell stands for all of them until an access of a part splits it.
  struct Row {
    Cell whole;
    uint32_t slot = 0;  // of parts_, 0: none yet
    bool split = false;
  };

  uint32_t CheckRead(const Cell& cell, const Accessor& by, Agent* other) const;
  uint32_t CheckWrite(Cell& cell, const Accessor& by, Agent* other);
  void BookRead(Cell& cell, const Accessor& by);
  uint32_t AccessCell(Cell& cell, AccessKind kind, const Accessor& by, Agent* other);
  std::array<Cell, 8>& Split(Row& row);
  uint32_t NewMany();

  std::vector<uint8_t> data_;
  std::vector<Row> rows_;
  std::vector<std::array<Cell, 8>> parts_;
  std::vector<std::vector<uint32_t>> many_;
  std::vector<uint32_t> free_many_;
  size_t agents_ = 0;
};

}  // namespace fedumm::cuda_machine
