// The arithmetic below everything else: exact sums for averaging, and the low-rank products of LoRA
// on CPU and CUDA. Raw pointers, int64 sizes, row-major and dense; the caller checks shapes,
// kernels check nothing. Thread-safe. C++17, so that CUDA sources can include it.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

struct CUstream_st;  // what a cudaStream_t points to; spares callers the CUDA headers

namespace fedumm::kernels {

// --- Exact sums --------------------------------------------------------------------------------
//
// Floating-point addition depends on the order. Here each value is split into parts that are whole
// multiples of fixed powers of two (grids), and parts of one grid are added up in a double. As long
// as such a sum stays below 2^53 grid steps no addition rounds, so any order gives the same bits.

// Grid g has the step 2^(kGridBits * g); g runs from kMinGrid to kMaxGrid.
constexpr int kGridBits = 34;
constexpr int kMinGrid = -8;
constexpr int kMaxGrid = 5;
constexpr int kNumGrids = kMaxGrid - kMinGrid + 1;
// So many values may be added to one sum: each part is at most 2^kGridBits steps.
constexpr int64_t kMaxAddends = int64_t{1} << (53 - kGridBits);
// Values must be smaller than this, and bits below the step of kMinGrid (2^-272) are lost.
constexpr double kMaxValue = 0x1p204;

// values = weight * x, rounded once to double. Returns the largest magnitude.
double ScaleToDouble(int64_t n, double weight, const float* x, double* values);
double ScaleToDouble(int64_t n, double weight, const double* x, double* values);
// The grid that the parts of a value of this magnitude start at.
int TopGrid(double magnitude);
// Moves from each value to its sum the nearest multiple of the grid's step. Every |value| must be
// below 2^(kGridBits * (grid + 1)). Returns whether something is left in any value.
bool AddToGrid(int64_t n, int grid, double* values, double* sums);

// A window is the cheap way to the same exact sums, for values of similar size: integers that count
// steps of 2^step_exponent. |value| must be below 2^(kWindowBits + step_exponent), and so must the
// magnitudes of all that is added to one sum together.
constexpr int kWindowBits = 62;
// False, and nothing is added, if a value is no whole number of steps.
bool AddToWindow(int64_t n, int step_exponent, const double* values, int64_t* sums);

// Index of the first NaN or infinity, or -1.
int64_t FirstNonFinite(int64_t n, const float* x);
int64_t FirstNonFinite(int64_t n, const double* x);

// --- LoRA ----------------------------------------------------------------------------------------
//
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
