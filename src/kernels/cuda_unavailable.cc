// The CUDA entry points of a build without CUDA.
#include "fedumm/kernels.h"

namespace fedumm::kernels {
namespace {

absl::Status Unavailable() { return absl::UnimplementedError("fedumm was built without CUDA"); }

}  // namespace

int CudaDeviceCount() { return 0; }

absl::Status LoraShrinkCuda(const LoraProblem&, ConstMatrix, Matrix, uint32_t*, CUstream_st*) {
  return Unavailable();
}
absl::Status LoraForwardCuda(const LoraProblem&, ConstMatrix, ConstMatrix, absl::Span<const Matrix>,
                             CUstream_st*) {
  return Unavailable();
}
absl::Status LoraGradSBCuda(const LoraProblem&, absl::Span<const ConstMatrix>, ConstMatrix, Matrix,
                            absl::Span<float* const>, bool, void*, CUstream_st*) {
  return Unavailable();
}
absl::Status LoraGradACuda(const LoraProblem&, ConstMatrix, ConstMatrix, const uint32_t*,
                           absl::Span<float* const>, bool, void*, CUstream_st*) {
  return Unavailable();
}
absl::Status LoraGradXCuda(const LoraProblem&, absl::Span<const ConstMatrix>, ConstMatrix,
                           const uint32_t*, Matrix, CUstream_st*) {
  return Unavailable();
}
int64_t LoraWorkspaceBytes(const LoraProblem&) { return 0; }

absl::Status AdamWCuda(const AdamWOptions&, absl::Span<const AdamWClient>, float*, void*,
                       CUstream_st*) {
  return Unavailable();
}
int64_t AdamWWorkspaceBytes(absl::Span<const AdamWClient>) { return 0; }

}  // namespace fedumm::kernels
