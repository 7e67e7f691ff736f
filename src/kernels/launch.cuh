// What the host code of the kernels shares: errors, the current device, launches.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "fedumm/kernels.h"

namespace fedumm::kernels {

inline absl::Status CudaStatus(cudaError_t error, absl::string_view function) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(function, ": ", cudaGetErrorString(error)));
}

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

// f(T()) with the elements' type T.
template <typename F>
absl::Status WithElementType(DType dtype, absl::string_view function, const F& f) {
  switch (dtype) {
    case DType::kFloat32:
      return f(float());
    case DType::kBFloat16:
      return f(__nv_bfloat16());
    case DType::kFloat16:
      return f(__half());
  }
  return absl::InvalidArgumentError(absl::StrCat(function, ": unknown dtype"));
}

struct Device {
  int major = 0;  // compute capability
  int multiprocessors = 0;
};

inline cudaError_t CurrentDevice(Device* device) {
  int index = 0;
  if (const cudaError_t error = cudaGetDevice(&index); error != cudaSuccess) return error;
  if (const cudaError_t error =
          cudaDeviceGetAttribute(&device->major, cudaDevAttrComputeCapabilityMajor, index);
      error != cudaSuccess) {
    return error;
  }
  return cudaDeviceGetAttribute(&device->multiprocessors, cudaDevAttrMultiProcessorCount, index);
}

// Enqueues `kernel` with `shared` bytes of dynamic shared memory.
template <typename... Parameters, typename... Arguments>
cudaError_t Launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared,
                   cudaStream_t stream, const Arguments&... arguments) {
  constexpr size_t kWithoutAsking = 48 * 1024;
  if (shared > kWithoutAsking) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  kernel<<<grid, static_cast<unsigned>(threads), shared, stream>>>(arguments...);
  return cudaGetLastError();
}

}  // namespace fedumm::kernels
