#pragma once

#include <c10/core/Allocator.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

namespace fedumm::model {

// How many bytes tensors take at a time. Thread-safe.
class AllocationCount {
 public:
  void Add(int64_t bytes) {
    const int64_t now = live_ += bytes;
    int64_t peak = peak_;
    while (now > peak && !peak_.compare_exchange_weak(peak, now)) {
    }
  }
  int64_t live() const { return live_; }
  int64_t peak() const { return peak_; }

 private:
  std::atomic<int64_t> live_ = 0;
  std::atomic<int64_t> peak_ = 0;
};

// While it lives, all tensors that are allocated on a type of device, by any thread, are counted;
// those that were there before are not. One at a time for a type of device. What it counted may
// outlive it.
class CountedAllocations {
 public:
  explicit CountedAllocations(c10::DeviceType device)
      : device_(device), before_(c10::GetAllocator(device)), allocator_(*before_, count_) {
    c10::SetAllocator(device, &allocator_, kPriority);
  }
  ~CountedAllocations() { c10::SetAllocator(device_, before_, kPriority); }
  CountedAllocations(const CountedAllocations&) = delete;
  CountedAllocations& operator=(const CountedAllocations&) = delete;

  const AllocationCount& count() const { return *count_; }

 private:
  static constexpr uint8_t kPriority = 255;

  class Allocator final : public c10::Allocator {
   public:
    Allocator(c10::Allocator& inner, std::shared_ptr<AllocationCount> count)
        : inner_(inner), count_(std::move(count)) {}

    // Memory of the host has its Block right before it, so that the context is the data, as
    // raw_deleter promises. Meta tensors have no memory.
    c10::DataPtr allocate(size_t bytes) override {
      c10::DataPtr memory = inner_.allocate(bytes + kHeader);
      const c10::Device device = memory.device();
      count_->Add(static_cast<int64_t>(bytes));
      auto* const begin = static_cast<char*>(memory.get());
      if (begin == nullptr) {
        return {nullptr, new Block{static_cast<int64_t>(bytes), std::move(memory), count_}, &Free,
                device};
      }
      new (begin) Block{static_cast<int64_t>(bytes), std::move(memory), count_};
      return {begin + kHeader, begin + kHeader, &FreeHost, device};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &FreeHost; }
    void copy_data(void* dest, const void* src, size_t count) const override {
      inner_.copy_data(dest, src, count);
    }

   private:
    struct Block {
      ~Block() { count->Add(-bytes); }
      int64_t bytes;
      c10::DataPtr memory;
      std::shared_ptr<AllocationCount> count;
    };
    static constexpr size_t kHeader = 64;  // keeps the alignment of the data
    static_assert(sizeof(Block) <= kHeader);

    static void Free(void* context) { delete static_cast<Block*>(context); }
    static void FreeHost(void* data) {
      auto* const block = reinterpret_cast<Block*>(static_cast<char*>(data) - kHeader);
      const c10::DataPtr memory = std::move(block->memory);  // which the block lies in
      block->~Block();
    }

    c10::Allocator& inner_;
    const std::shared_ptr<AllocationCount> count_;
  };

  const c10::DeviceType device_;
  c10::Allocator* const before_;
  const std::shared_ptr<AllocationCount> count_ = std::make_shared<AllocationCount>();
  Allocator allocator_;
};

}  // namespace fedumm::model
