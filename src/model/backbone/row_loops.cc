#include "model/backbone/row_loops.h"

#include <algorithm>
#include <bit>
#include <cmath>

// One copy of a loop for each generation of vector units, chosen when the program starts.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FEDUMM_VECTORISED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FEDUMM_VECTORISED
#endif

namespace fedumm::model {
namespace {

// exp(x) to about 1e-7 relative, by Cephes' polynomial (expf.c). Clamped where fp32 would end.
inline float Exp(float x) {
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer
  x = std::min(std::max(x, -87.0f), 88.0f);
  const float shifted = x * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // The lowest bits of `shifted` are those of the integer n, also if x is NaN.
  return p * std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + 0x3f800000u);
}

inline float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }

}  // namespace

FEDUMM_VECTORISED
void Widen(int64_t n, const c10::BFloat16* x, float* y) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = std::bit_cast<float>(static_cast<uint32_t>(x[i].x) << 16);
}

void Widen(int64_t n, const c10::Half* x, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i];
}

FEDUMM_VECTORISED
void Narrow(int64_t n, const float* x, c10::BFloat16* y) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const auto bits = std::bit_cast<uint32_t>(x[i]);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
    y[i].x = static_cast<uint16_t>(is_nan ? 0x7fc0 : rounded);
  }
}

void Narrow(int64_t n, const float* x, c10::Half* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i];
}

FEDUMM_VECTORISED
void Multiply(int64_t n, const float* a, const float* b, float* y) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = a[i] * b[i];
}

FEDUMM_VECTORISED
void Add(int64_t n, const float* x, float* y) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}

FEDUMM_VECTORISED
float Normalise(int64_t n, const float* x, float eps, float* y) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  const float r = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * r;
  return r;
}

FEDUMM_VECTORISED
void NormaliseBackward(int64_t n, const float* x, float r, const float* h, float* dx) {
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t i = 0; i < n; ++i) dot += h[i] * x[i];
  const float along = dot * r * r / static_cast<float>(n);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) dx[i] = r * (h[i] - x[i] * along);
}

FEDUMM_VECTORISED
void AddProduct(int64_t n, const float* g, const float* x, float r, float* sum) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sum[i] += g[i] * (x[i] * r);
}

FEDUMM_VECTORISED
void RotateHalves(int64_t heads, int64_t half, const float* x, const float* cos, const float* sin,
                  float sign, float* y) {
  for (int64_t head = 0; head < heads; ++head, x += 2 * half, y += 2 * half) {
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      const float s = sign * sin[i];
      y[i] = x[i] * cos[i] - x[half + i] * s;
      y[half + i] = x[half + i] * cos[i] + x[i] * s;
    }
  }
}

FEDUMM_VECTORISED
void RotateNeighbours(int64_t heads, int64_t half, const float* x, const float* cos,
                      const float* sin, float sign, float* y) {
  for (int64_t head = 0; head < heads; ++head, x += 2 * half, y += 2 * half) {
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      const float s = sign * sin[i];
      y[2 * i] = x[2 * i] * cos[i] - x[2 * i + 1] * s;
      y[2 * i + 1] = x[2 * i + 1] * cos[i] + x[2 * i] * s;
    }
  }
}

FEDUMM_VECTORISED
void Silu(int64_t n, const float* x, float* y) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * Sigmoid(x[i]);
}

FEDUMM_VECTORISED
void SiluBackward(int64_t n, const float* x, const float* g, float* dx) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float s = Sigmoid(x[i]);
    dx[i] = g[i] * (s * (1.0f + x[i] * (1.0f - s)));
  }
}

}  // namespace fedumm::model
