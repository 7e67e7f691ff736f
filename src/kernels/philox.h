// Philox4x32-10, the counter-based generator of dropout masks (Salmon, Moraes, Dror and Shaw 2011,
// "Parallel random numbers: as easy as 1, 2, 3"), for host and device. C++17.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define FEDUMM_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define FEDUMM_HOST_DEVICE inline
#endif

namespace fedumm::kernels {

struct Philox {
  uint32_t words[4];
};

inline constexpr uint32_t kPhiloxFactor0 = 0xD2511F53, kPhiloxFactor1 = 0xCD9E8D57;
inline constexpr uint32_t kPhiloxKeyStep0 = 0x9E3779B9, kPhiloxKeyStep1 = 0xBB67AE85;
inline constexpr int kPhiloxRounds = 10;

FEDUMM_HOST_DEVICE Philox PhiloxOf(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3,
                                   uint64_t key) {
  auto k0 = static_cast<uint32_t>(key);
  auto k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t p0 = uint64_t{kPhiloxFactor0} * c0;
    const uint64_t p1 = uint64_t{kPhiloxFactor1} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += kPhiloxKeyStep0;
    k1 += kPhiloxKeyStep1;
  }
  return {{c0, c1, c2, c3}};
}

// An element is dropped if its 16 bits are below this.
FEDUMM_HOST_DEVICE uint32_t DropoutThreshold(double dropout) {
  return static_cast<uint32_t>(dropout * 65536);
}

// The mask of elements (row, 8 * group ...) in the lowest 8 bits, 1 for those that are kept.
FEDUMM_HOST_DEVICE uint32_t DropoutByte(uint32_t threshold, uint64_t key, int64_t row,
                                        int64_t group) {
  const Philox random = PhiloxOf(static_cast<uint32_t>(group), static_cast<uint32_t>(row),
                                 static_cast<uint32_t>(row >> 32), 0, key);
  uint32_t kept = 0;
  for (int i = 0; i < 4; ++i) {
    kept |= static_cast<uint32_t>((random.words[i] & 0xffff) >= threshold) << (2 * i);
    kept |= static_cast<uint32_t>((random.words[i] >> 16) >= threshold) << (2 * i + 1);
  }
  return kept;
}

}  // namespace fedumm::kernels
