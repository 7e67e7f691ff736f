#include <algorithm>

#include "fedumm/kernels.h"

namespace fedumm::kernels {
namespace {

// Sixteen partial sums, which the compiler keeps in vector registers; one sum it may not reorder.
float Dot(int64_t n, const float* __restrict x, const float* __restrict y) {
  constexpr int kLanes = 16;
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) sums[j] += x[i + j] * y[i + j];
  }
  for (int j = 0; i < n; ++i, ++j) sums[j] += x[i] * y[i];
  float total = 0;
  for (const float sum : sums) total += sum;
  return total;
}

void Axpy(int64_t n, float factor, const float* __restrict x, float* __restrict y) {
  for (int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

}  // namespace

void LoraShrinkCpu(int64_t m, int64_t k, int64_t r, float scale, const float* x, const float* a,
                   float* s) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < r; ++j) s[i * r + j] = scale * Dot(k, x + i * k, a + j * k);
  }
}

void LoraExpandAddCpu(int64_t m, int64_t n, int64_t r, const float* s, const float* b, float* y) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) y[i * n + j] += Dot(r, s + i * r, b + j * r);
  }
}

void LoraGradSCpu(int64_t m, int64_t n, int64_t r, float scale, const float* dy, const float* b,
                  float* ds) {
  for (int64_t i = 0; i < m; ++i) {
    float* row = ds + i * r;
    std::fill(row, row + r, 0.0f);
    for (int64_t j = 0; j < n; ++j) Axpy(r, dy[i * n + j], b + j * r, row);
    for (int64_t j = 0; j < r; ++j) row[j] *= scale;
  }
}

void LoraGradBCpu(int64_t m, int64_t n, int64_t r, const float* dy, const float* s, float* db) {
  std::fill(db, db + n * r, 0.0f);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) Axpy(r, dy[i * n + j], s + i * r, db + j * r);
  }
}

void LoraGradACpu(int64_t m, int64_t k, int64_t r, const float* ds, const float* x, float* da) {
  std::fill(da, da + r * k, 0.0f);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < r; ++j) Axpy(k, ds[i * r + j], x + i * k, da + j * k);
  }
}

void LoraGradXAddCpu(int64_t m, int64_t k, int64_t r, const float* ds, const float* a, float* dx) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < r; ++j) Axpy(k, ds[i * r + j], a + j * k, dx + i * k);
  }
}

}  // namespace fedumm::kernels
