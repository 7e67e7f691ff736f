// Random numbers that are the same on every machine: xoshiro256** (Blackman, Vigna), seeded by
// SplitMix64. Standard-library distributions differ between implementations, so none is used.
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <numbers>
#include <utility>
#include <vector>

namespace fedumm {

// Not thread-safe; cheap to make, so give each job its own: Random(seed, {round, node}).
class Random {
 public:
  // Streams with different `keys` are independent.
  explicit Random(uint64_t seed, std::initializer_list<uint64_t> keys = {}) {
    uint64_t mix = seed;
    for (const uint64_t key : keys) mix = SplitMix(mix) ^ (key * 0x9e3779b97f4a7c15u);
    for (uint64_t& word : state_) word = SplitMix(mix);
  }

  uint64_t Next() {
    const uint64_t result = Rotate(state_[1] * 5, 7) * 9;
    const uint64_t t = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= t;
    state_[3] = Rotate(state_[3], 45);
    return result;
  }
  // In [0, 1), 53 bits.
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }
  // In [0, n), unbiased; n > 0.
  uint64_t Below(uint64_t n) {
    const uint64_t limit = UINT64_MAX - UINT64_MAX % n;
    uint64_t value = Next();
    while (value >= limit) value = Next();
    return value % n;
  }
  // Standard normal (Box-Muller, one value a call).
  double Normal() {
    const double radius = std::sqrt(-2 * std::log(1 - Uniform()));
    return radius * std::cos(2 * std::numbers::pi * Uniform());
  }
  // Fisher-Yates.
  template <typename T>
  void Shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[Below(i)]);
  }

 private:
  static uint64_t Rotate(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }
  static uint64_t SplitMix(uint64_t& state) {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  uint64_t state_[4];
};

}  // namespace fedumm
