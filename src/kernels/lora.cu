// Every LoRA product is C = alpha * X * Y + beta * C with one short side. One tiled kernel does
// them all; transposition is a matter of strides. The sum over the inner dimension runs in one
// fixed order, so results repeat bit for bit.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "fedumm/kernels.h"

namespace fedumm::kernels {
namespace {

constexpr int kTile = 16;
constexpr int64_t kMaxGridY = 65535;

// A matrix that may be transposed: element (i, j) is data[i * row + j * column].
template <typename T>
struct View {
  const T* data;
  int64_t row;
  int64_t column;
};

__device__ float Load(float value) { return value; }
__device__ float Load(BFloat16 value) { return __bfloat162float(__ushort_as_bfloat16(value.bits)); }
__device__ void Store(float value, float* out) { *out = value; }
__device__ void Store(float value, BFloat16* out) {
  out->bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

// c[rows, columns] = alpha * x[rows, inner] * y[inner, columns] + beta * c, beta being 0 or 1.
template <typename T>
__global__ void __launch_bounds__(kTile* kTile)
    ProductKernel(int64_t rows, int64_t columns, int64_t inner, float alpha, View<T> x, View<T> y,
                  bool add, T* __restrict__ c) {
  __shared__ float x_tile[kTile][kTile + 1];
  __shared__ float y_tile[kTile][kTile + 1];
  const int tx = threadIdx.x;
  const int ty = threadIdx.y;
  // Thread x runs along whichever index of each operand is contiguous in memory.
  const bool x_by_row = x.column == 1;
  const bool y_by_row = y.column == 1;
  const int64_t column = int64_t{blockIdx.x} * kTile + tx;
  for (int64_t first = int64_t{blockIdx.y} * kTile; first < rows;
       first += int64_t{gridDim.y} * kTile) {
    float sum = 0;
    for (int64_t start = 0; start < inner; start += kTile) {
      const int xi = x_by_row ? ty : tx;
      const int xj = x_by_row ? tx : ty;
      const int yi = y_by_row ? ty : tx;
      const int yj = y_by_row ? tx : ty;
      const int64_t x_row = first + xi;
      const int64_t y_column = int64_t{blockIdx.x} * kTile + yj;
      x_tile[xi][xj] = x_row < rows && start + xj < inner
                           ? Load(x.data[x_row * x.row + (start + xj) * x.column])
                           : 0.0f;
      y_tile[yi][yj] = start + yi < inner && y_column < columns
                           ? Load(y.data[(start + yi) * y.row + y_column * y.column])
                           : 0.0f;
      __syncthreads();
#pragma unroll
      for (int t = 0; t < kTile; ++t) sum += x_tile[ty][t] * y_tile[t][tx];
      __syncthreads();
    }
    const int64_t row = first + ty;
    if (row < rows && column < columns) {
      T* out = c + row * columns + column;
      Store(alpha * sum + (add ? Load(*out) : 0.0f), out);
    }
  }
}

template <typename T>
absl::Status Product(const char* name, int64_t rows, int64_t columns, int64_t inner, float alpha,
                     View<T> x, View<T> y, bool add, T* c, CUstream_st* stream) {
  if (rows == 0 || columns == 0) return absl::OkStatus();  // a zero-block launch is an error
  const dim3 grid(static_cast<unsigned>((columns + kTile - 1) / kTile),
                  static_cast<unsigned>(std::min((rows + kTile - 1) / kTile, kMaxGridY)));
  ProductKernel<T>
      <<<grid, dim3(kTile, kTile), 0, stream>>>(rows, columns, inner, alpha, x, y, add, c);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
    return absl::InternalError(absl::StrCat(name, ": ", cudaGetErrorString(error)));
  }
  return absl::OkStatus();
}

}  // namespace

int CudaDeviceCount() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // a missing driver must not surface at the next launch
  return 0;
}

template <typename T>
absl::Status LoraShrinkCuda(int64_t m, int64_t k, int64_t r, float scale, const T* x, const T* a,
                            T* s, CUstream_st* stream) {
  return Product<T>("LoraShrinkCuda", m, r, k, scale, {x, k, 1}, {a, 1, k}, false, s, stream);
}

template <typename T>
absl::Status LoraExpandAddCuda(int64_t m, int64_t n, int64_t r, const T* s, const T* b, T* y,
                               CUstream_st* stream) {
  return Product<T>("LoraExpandAddCuda", m, n, r, 1, {s, r, 1}, {b, 1, r}, true, y, stream);
}

template <typename T>
absl::Status LoraGradSCuda(int64_t m, int64_t n, int64_t r, float scale, const T* dy, const T* b,
                           T* ds, CUstream_st* stream) {
  return Product<T>("LoraGradSCuda", m, r, n, scale, {dy, n, 1}, {b, r, 1}, false, ds, stream);
}

template <typename T>
absl::Status LoraGradBCuda(int64_t m, int64_t n, int64_t r, const T* dy, const T* s, T* db,
                           CUstream_st* stream) {
  return Product<T>("LoraGradBCuda", n, r, m, 1, {dy, 1, n}, {s, r, 1}, false, db, stream);
}

template <typename T>
absl::Status LoraGradACuda(int64_t m, int64_t k, int64_t r, const T* ds, const T* x, T* da,
                           CUstream_st* stream) {
  return Product<T>("LoraGradACuda", r, k, m, 1, {ds, 1, r}, {x, k, 1}, false, da, stream);
}

template <typename T>
absl::Status LoraGradXAddCuda(int64_t m, int64_t k, int64_t r, const T* ds, const T* a, T* dx,
                              CUstream_st* stream) {
  return Product<T>("LoraGradXAddCuda", m, k, r, 1, {ds, r, 1}, {a, k, 1}, true, dx, stream);
}

#include "kernels/instantiate.inc"

}  // namespace fedumm::kernels
