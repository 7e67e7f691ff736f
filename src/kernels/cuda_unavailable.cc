// The CUDA entry points of a build without CUDA.
#include "fedumm/kernels.h"

namespace fedumm::kernels {
namespace {

absl::Status Unavailable() { return absl::UnimplementedError("fedumm was built without CUDA"); }

}  // namespace

int CudaDeviceCount() { return 0; }

template <typename T>
absl::Status LoraShrinkCuda(int64_t, int64_t, int64_t, float, const T*, const T*, T*,
                            CUstream_st*) {
  return Unavailable();
}
template <typename T>
absl::Status LoraExpandAddCuda(int64_t, int64_t, int64_t, const T*, const T*, T*, CUstream_st*) {
  return Unavailable();
}
template <typename T>
absl::Status LoraGradSCuda(int64_t, int64_t, int64_t, float, const T*, const T*, T*, CUstream_st*) {
  return Unavailable();
}
template <typename T>
absl::Status LoraGradBCuda(int64_t, int64_t, int64_t, const T*, const T*, T*, CUstream_st*) {
  return Unavailable();
}
template <typename T>
absl::Status LoraGradACuda(int64_t, int64_t, int64_t, const T*, const T*, T*, CUstream_st*) {
  return Unavailable();
}
template <typename T>
absl::Status LoraGradXAddCuda(int64_t, int64_t, int64_t, const T*, const T*, T*, CUstream_st*) {
  return Unavailable();
}

#include "kernels/instantiate.inc"

}  // namespace fedumm::kernels
