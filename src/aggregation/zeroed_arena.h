#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <new>
#include <type_traits>
#include <vector>

namespace fedumm {

// Zeroed words (8 bytes) that live as long as the arena. They come from large mappings, on huge
// pages where the system gives them: with ordinary pages the page faults would cost more than
// averaging itself. Not thread-safe.
class ZeroedArena {
 public:
  ZeroedArena() = default;
  ~ZeroedArena() {
    for (const Mapping& mapping : mappings_) munmap(mapping.start, mapping.num_bytes);
  }
  ZeroedArena(const ZeroedArena&) = delete;
  ZeroedArena& operator=(const ZeroedArena&) = delete;

  template <typename T = double>
  T* New(int64_t n) {
    static_assert(sizeof(T) == sizeof(double) && std::is_trivial_v<T>);
    if (const auto it = unused_.find(n); it != unused_.end() && !it->second.empty()) {
      void* words = it->second.back();
      it->second.pop_back();
      return static_cast<T*>(std::memset(words, 0, static_cast<size_t>(n) * sizeof(T)));
    }
    if (end_ - next_ < n) Map(n);
    double* result = next_;
    next_ += n;
    return reinterpret_cast<T*>(result);
  }
  // Takes back `n` words that New(n) gave.
  void Reuse(void* words, int64_t n) { unused_[n].push_back(words); }

 private:
  struct Mapping {
    void* start;
    size_t num_bytes;
  };

  void Map(int64_t n) {
    constexpr size_t kHugePage = size_t{2} << 20;
    constexpr size_t kUsual = size_t{64} << 20;  // address space; memory is taken when touched
    const size_t num_bytes = std::max(kUsual, static_cast<size_t>(n) * sizeof(double) + kHugePage);
    void* start = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) throw std::bad_alloc();
    mappings_.push_back({start, num_bytes});
    madvise(start, num_bytes, MADV_HUGEPAGE);  // a wish: without it all is the same but slower
    const uintptr_t first = reinterpret_cast<uintptr_t>(start);
    next_ = reinterpret_cast<double*>((first + kHugePage - 1) / kHugePage * kHugePage);
    end_ = reinterpret_cast<double*>(first + num_bytes);
  }

  std::vector<Mapping> mappings_;
  std::map<int64_t, std::vector<void*>> unused_;  // by size
  double* next_ = nullptr;
  double* end_ = nullptr;
};

}  // namespace fedumm
