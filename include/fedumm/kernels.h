// The low-rank products of LoRA on CPU and CUDA. Raw pointers, int64 sizes, row-major and dense;
// the caller checks shapes, kernels check nothing. Thread-safe. C++17, so that CUDA sources can
// include it.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

struct CUstream_st;  // what a cudaStream_t points to; spares callers the CUDA headers

namespace fedumm::kernels {

// x[m,k] and dx[m,k]: input of the layer and its gradient; y[m,n], dy[m,n]: output and its
// gradient; a[r,k], b[n,r]: the adapter; s[m,r] = scale * x * a^T: what lies between; ds[m,r] its
// gradient before scaling. The Cpu functions are the reference. The Cuda functions take device
// pointers, enqueue on `stream` and do not wait; UNIMPLEMENTED in a build without CUDA, INTERNAL if
// the launch fails. They use no atomics: equal inputs give equal bits. All sums are in float,
// whatever the element type.

struct BFloat16 {
  uint16_t bits;
};

// s = scale * x * a^T
void LoraShrinkCpu(int64_t m, int64_t k, int64_t r, float scale, const float* x, const float* a,
                   float* s);
// y += s * b^T
void LoraExpandAddCpu(int64_t m, int64_t n, int64_t r, const float* s, const float* b, float* y);
// ds = scale * dy * b
void LoraGradSCpu(int64_t m, int64_t n, int64_t r, float scale, const float* dy, const float* b,
                  float* ds);
// db = dy^T * s
void LoraGradBCpu(int64_t m, int64_t n, int64_t r, const float* dy, const float* s, float* db);
// da = ds^T * x
void LoraGradACpu(int64_t m, int64_t k, int64_t r, const float* ds, const float* x, float* da);
// dx += ds * a
void LoraGradXAddCpu(int64_t m, int64_t k, int64_t r, const float* ds, const float* a, float* dx);

// Devices that this process can use; 0 in a build without CUDA or on a machine without a driver.
int CudaDeviceCount();

// T is float or BFloat16.
template <typename T>
absl::Status LoraShrinkCuda(int64_t m, int64_t k, int64_t r, float scale, const T* x, const T* a,
                            T* s, CUstream_st* stream);
template <typename T>
absl::Status LoraExpandAddCuda(int64_t m, int64_t n, int64_t r, const T* s, const T* b, T* y,
                               CUstream_st* stream);
template <typename T>
absl::Status LoraGradSCuda(int64_t m, int64_t n, int64_t r, float scale, const T* dy, const T* b,
                           T* ds, CUstream_st* stream);
template <typename T>
absl::Status LoraGradBCuda(int64_t m, int64_t n, int64_t r, const T* dy, const T* s, T* db,
                           CUstream_st* stream);
template <typename T>
absl::Status LoraGradACuda(int64_t m, int64_t k, int64_t r, const T* ds, const T* x, T* da,
                           CUstream_st* stream);
template <typename T>
absl::Status LoraGradXAddCuda(int64_t m, int64_t k, int64_t r, const T* ds, const T* a, T* dx,
                              CUstream_st* stream);

}  // namespace fedumm::kernels
