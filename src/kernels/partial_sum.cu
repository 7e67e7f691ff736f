#include "kernels/partial_sum.h"
#include "kernels/segments.cuh"

namespace fedumm::kernels {
// Not anonymous: a kernel's mangled name must be the same in every compilation of this file.
namespace partial_sum {

constexpr int kThreads = 256;

using SumTable = Table<PartialSum, 128>;

// A thread sums four columns of a row.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    PartialSumKernel(const __grid_constant__ SumTable table) {
  const int which = table.Find(blockIdx.x);
  const PartialSum& job = table.items[which];
  const int64_t at = int64_t{blockIdx.x - table.first[which]} * kThreads + threadIdx.x;
  const int per_row = (job.columns + 3) / 4;
  const int64_t row = at / per_row;
  const int column = static_cast<int>(at % per_row) * 4;
  if (row >= job.rows) return;

  const float* from = job.partials + row * job.pitch + column;
  const int64_t step = job.step;
  float4 sum = *reinterpret_cast<const float4*>(from);
  const int parts = job.parts;
#pragma unroll 4
  for (int part = 1; part < parts; ++part) {
    const float4 next = *reinterpret_cast<const float4*>(from + part * step);
    sum.x += next.x;
    sum.y += next.y;
    sum.z += next.z;
    sum.w += next.w;
  }
  float values[4] = {job.factor * sum.x, job.factor * sum.y, job.factor * sum.z,
                     job.factor * sum.w};
  const int valid = job.columns - column;
  if (job.to_float || std::is_same_v<T, float>) {
    float* out = static_cast<float*>(job.out) + row * job.stride + column;
    if (valid >= 4 && reinterpret_cast<uintptr_t>(out) % 16 == 0) {
      auto* quad = reinterpret_cast<float4*>(out);
      if (job.add) {
        const float4 old = *quad;
        values[0] += old.x, values[1] += old.y, values[2] += old.z, values[3] += old.w;
      }
      ptx::StoreGlobal(quad, float4{values[0], values[1], values[2], values[3]});
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i < valid) out[i] = job.add ? out[i] + values[i] : values[i];
      }
    }
  } else if constexpr (!std::is_same_v<T, float>) {
    T* out = static_cast<T*>(job.out) + row * job.stride + column;
    if (valid >= 4 && reinterpret_cast<uintptr_t>(out) % 8 == 0) {
      ptx::StoreGlobal(
          out, uint2{ptx::Pack<T>(values[0], values[1]), ptx::Pack<T>(values[2], values[3])});
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i < valid) StoreRounded(out + i, values[i]);
      }
    }
  }
}

}  // namespace partial_sum

using namespace partial_sum;  // NOLINT(google-build-using-namespace)

absl::Status SumPartials(DType dtype, const std::vector<PartialSum>& sums,
                         absl::string_view function, CUstream_st* stream) {
  const auto blocks = [](const PartialSum& job) {
    return CeilDiv(job.rows * CeilDiv(job.columns, 4), kThreads);
  };
  return ForTables<SumTable>(sums, blocks, [&](const SumTable& table) {
    return WithElementType(dtype, function, [&](auto element) {
      return CudaStatus(Launch(PartialSumKernel<decltype(element)>, dim3(table.blocks), kThreads,
                               /*shared=*/0, stream, table),
                        function);
    });
  });
}

}  // namespace fedumm::kernels
