#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/exact_sum.h"

// This file is compiled without contraction of a*b+c: a fused product would round elsewhere than
// the separate one, and the splitting below relies on each rounding.

// The loops twice, for the base instruction set and for AVX2, chosen at run time. Both give the
// same bits: neither reorders an addition. (target_clones would do the same through an ifunc, which
// runs before ThreadSanitizer is ready.)
#if defined(__x86_64__)
#define FEDUMM_AVX2 __attribute__((target("avx2")))
#define FEDUMM_HAS_AVX2() __builtin_cpu_supports("avx2")
#else
#define FEDUMM_AVX2
#define FEDUMM_HAS_AVX2() false
#endif
#define FEDUMM_INLINE inline __attribute__((always_inline))

namespace fedumm::kernels {
namespace {

// Spelled out, because the compiler does not vectorise a maximum that must treat NaN by the book.
typedef double Vector __attribute__((vector_size(32)));

// Bits of a window below its upper part. Both parts fit what a double's low bits can hold.
constexpr int kWindowSplit = kWindowBits - 50;

template <typename T>
FEDUMM_INLINE double ScaleBody(int64_t n, double weight, const T* __restrict x,
                               double* __restrict values) {
  for (int64_t i = 0; i < n; ++i) values[i] = weight * static_cast<double>(x[i]);
  Vector largest = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    Vector value;
    std::memcpy(&value, values + i, sizeof(value));
    const Vector magnitude = value < 0 ? -value : value;
    largest = magnitude > largest ? magnitude : largest;
  }
  double result = std::max(std::max(largest[0], largest[1]), std::max(largest[2], largest[3]));
  for (; i < n; ++i) result = std::max(result, std::fabs(values[i]));
  return result;
}

FEDUMM_INLINE bool AddToGridBody(int64_t n, double shift, double* __restrict values,
                                 double* __restrict sums) {
  double left[4] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    for (int j = 0; j < 4; ++j) {
      const double part = (values[i + j] + shift) - shift;
      const double rest = values[i + j] - part;
      sums[i + j] += part;
      values[i + j] = rest;
      left[j] += std::fabs(rest);
    }
  }
  for (; i < n; ++i) {
    const double part = (values[i] + shift) - shift;
    sums[i] += part;
    values[i] -= part;
    left[0] += std::fabs(values[i]);
  }
  return left[0] + left[1] + left[2] + left[3] != 0;
}

// A double in [2^52, 2^53) steps holds the number of steps in its low bits: the sum of value and
// shift is at once the rounding and the conversion to an integer.
FEDUMM_INLINE bool AddToWindowBody(int64_t n, double high_shift, double low_shift,
                                   const double* __restrict values, int64_t* __restrict sums) {
  int64_t high_bits, low_bits;
  std::memcpy(&high_bits, &high_shift, sizeof(high_bits));
  std::memcpy(&low_bits, &low_shift, sizeof(low_bits));
  int64_t left = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double high = values[i] + high_shift;
    const double rest = values[i] - (high - high_shift);
    const double low = rest + low_shift;
    const double lost = rest - (low - low_shift);
    int64_t high_steps, low_steps, lost_bits;
    std::memcpy(&high_steps, &high, sizeof(high_steps));
    std::memcpy(&low_steps, &low, sizeof(low_steps));
    std::memcpy(&lost_bits, &lost, sizeof(lost_bits));
    left |= lost_bits;
    sums[i] += static_cast<int64_t>(static_cast<uint64_t>(high_steps - high_bits) << kWindowSplit) +
               (low_steps - low_bits);
  }
  return (left & INT64_MAX) != 0;  // -0 is nothing
}

FEDUMM_AVX2 bool AddToWindowAvx2(int64_t n, double high_shift, double low_shift,
                                 const double* values, int64_t* sums) {
  return AddToWindowBody(n, high_shift, low_shift, values, sums);
}
FEDUMM_AVX2 double ScaleAvx2(int64_t n, double weight, const float* x, double* values) {
  return ScaleBody(n, weight, x, values);
}
FEDUMM_AVX2 bool AddToGridAvx2(int64_t n, double shift, double* values, double* sums) {
  return AddToGridBody(n, shift, values, sums);
}

}  // namespace

double ScaleToDouble(int64_t n, double weight, const float* x, double* values) {
  return FEDUMM_HAS_AVX2() ? ScaleAvx2(n, weight, x, values) : ScaleBody(n, weight, x, values);
}

double ScaleToDouble(int64_t n, double weight, const double* x, double* values) {
  return ScaleBody(n, weight, x, values);
}

int TopGrid(double magnitude) {
  if (magnitude == 0) return kMinGrid;
  const int exponent = std::ilogb(magnitude);  // magnitude < 2^(exponent + 1)
  // Rounded down also below zero.
  const int grid = (exponent + 100 * kGridBits) / kGridBits - 100;
  return std::clamp(grid, kMinGrid, kMaxGrid);
}

bool AddToGrid(int64_t n, int grid, double* values, double* sums) {
  // Adding 1.5 * 2^52 steps leaves no room for anything finer than a step: the addition itself
  // rounds, to nearest even.
  const double shift = std::ldexp(1.5, 52 + kGridBits * grid);
  return FEDUMM_HAS_AVX2() ? AddToGridAvx2(n, shift, values, sums)
                           : AddToGridBody(n, shift, values, sums);
}

bool AddToWindow(int64_t n, int step_exponent, const double* values, int64_t* sums) {
  const double low_shift = std::ldexp(1.5, 52 + step_exponent);
  const double high_shift = std::ldexp(1.5, 52 + step_exponent + kWindowSplit);
  const auto add = FEDUMM_HAS_AVX2() ? AddToWindowAvx2 : AddToWindowBody;
  if (!add(n, high_shift, low_shift, values, sums)) return true;
  // Rare: take back what was added, which was the same integers.
  std::vector<int64_t> added(static_cast<size_t>(n));
  add(n, high_shift, low_shift, values, added.data());
  for (int64_t i = 0; i < n; ++i) sums[i] -= added[static_cast<size_t>(i)];
  return false;
}

}  // namespace fedumm::kernels
