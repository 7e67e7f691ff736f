// The global memory of the emulated device: allocations that know which of their 2-byte cells have
// a value, and which thread of which launch wrote them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace fedumm::cuda_machine {

// A cell holds 0 (no value) or 1 | thread << 1 | block << 11 | launch << 39; the host is launch 0.
struct Allocation {
  std::string name;
  uint8_t* data = nullptr;
  size_t bytes = 0;
  bool read_only = false;
  std::vector<uint64_t> cells;
};

class GlobalMemory {
 public:
  enum Fault : uint32_t {
    kNone = 0,
    kOutside = 1,
    kWriteReadOnly = 2,
    kDoubleWrite = 4,
    kOtherThread = 8,
    kNoValue = 16,
  };

  static uint64_t Writer(uint64_t launch, uint64_t block, uint64_t thread) {
    return 1 | thread << 1 | block << 11 | launch << 39;
  }
  static bool WrittenByLaunch(uint64_t cell) { return cell >> 39 != 0; }

  void Register(Allocation* allocation) { allocations_[allocation->data] = allocation; }
  void Unregister(Allocation* allocation) {
    allocations_.erase(allocation->data);
    if (last_ == allocation) last_ = nullptr;
  }
  Allocation* Find(const uint8_t* p) {
    if (last_ != nullptr && last_->data <= p && p < last_->data + last_->bytes) return last_;
    auto it = allocations_.upper_bound(p);
    if (it == allocations_.begin()) return nullptr;
    Allocation* a = (--it)->second;
    if (p >= a->data + a->bytes) return nullptr;
    last_ = a;
    return a;
  }

  // The allocation that ends before `p`, or else the first one; for messages.
  const Allocation* Before(const uint8_t* p) const {
    if (allocations_.empty()) return nullptr;
    auto it = allocations_.upper_bound(p);
    if (it != allocations_.begin()) --it;
    return it->second;
  }

  // Checks and books an access by `writer` (a cell's value); `found` is the allocation, if any.
  uint32_t Access(const uint8_t* p, uint32_t bytes, bool write, uint64_t writer,
                  Allocation** found) {
    Allocation* a = Find(p);
    *found = a;
    if (a == nullptr || p + bytes > a->data + a->bytes) return kOutside;
    const size_t at = static_cast<size_t>(p - a->data);
    uint64_t* cell = a->cells.data() + at / 2;
    uint64_t* const end = a->cells.data() + (at + bytes - 1) / 2 + 1;
    uint32_t faults = kNone;
    if (write) {
      if (a->read_only) faults |= kWriteReadOnly;
      for (; cell != end; ++cell) {
        if (IsOther(*cell, writer)) faults |= kDoubleWrite;
        *cell = writer;
      }
    } else {
      for (; cell != end; ++cell) {
        if (*cell == 0) faults |= kNoValue;
        if (IsOther(*cell, writer)) faults |= kOtherThread;
      }
    }
    return faults;
  }

 private:
  static bool IsOther(uint64_t cell, uint64_t writer) {
    return cell >> 39 == writer >> 39 && cell != writer;
  }

  std::map<const uint8_t*, Allocation*> allocations_;
  Allocation* last_ = nullptr;
};

}  // namespace fedumm::cuda_machine
