// What kernels with tiles in shared memory share: where a chunk lies, how it is copied, which part
// of a launch a block belongs to.
#pragma once

#include <cstdint>

#include "kernels/ptx.cuh"

namespace fedumm::kernels {

// Byte offset of a 16-byte chunk in a tile with rows of kPitch bytes (32, 64 or a multiple of 128).
// The XOR spreads eight rows at the same chunk, which ldmatrix reads together, over all banks.
template <int kPitch>
__device__ __forceinline__ uint32_t ChunkOffset(int row, int chunk) {
  static_assert(kPitch == 32 || kPitch == 64 || kPitch % 128 == 0, "");
  constexpr int kRowsPerLine = kPitch < 128 ? 128 / kPitch : 1;
  constexpr int kMask = kPitch < 128 ? kPitch / 16 - 1 : 7;
  return static_cast<uint32_t>(row * kPitch + ((chunk ^ ((row / kRowsPerLine) & kMask)) << 4));
}

// Copies kBytes bytes to shared memory, of which `valid` exist; the rest is zero. 2 bytes go by an
// ordinary store, others belong to the thread's cp.async group.
template <int kBytes>
__device__ __forceinline__ void Copy(uint32_t to, const void* from, int valid) {
  if constexpr (kBytes >= 4) {
    ptx::CpAsync<kBytes>(to, from, valid);
  } else {
    ptx::StoreShared<uint16_t>(to, valid > 0 ? *static_cast<const uint16_t*>(from) : uint16_t{0});
  }
}

// Ones in the 16-bit halves of a register whose elements are kept: bit 0 of `low` and of `high`.
__device__ __forceinline__ uint32_t KeepMask(uint32_t low, uint32_t high) {
  return (low & 1) * 0xffffU | (high & 1) * 0xffff0000U;
}

// The last of `count` items (at least one) whose first(item), which grows, is not beyond `at`.
template <typename First>
__device__ __forceinline__ int LastAtOrBefore(int count, unsigned at, First first) {
  int low = 0, high = count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (static_cast<unsigned>(first(middle)) <= at) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace fedumm::kernels
