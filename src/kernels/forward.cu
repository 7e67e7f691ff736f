#include "kernels/gemm_launch.cuh"

namespace fedumm::kernels {

absl::Status LoraForwardCuda(const LoraProblem& problem, ConstMatrix x, ConstMatrix s,
                             absl::Span<const Matrix> y, CUstream_st* stream) {
  if (absl::Status status = CheckLoraProblem(problem); !status.ok()) return status;
  if (y.size() != problem.modules.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("LoRA: ", y.size(), " results y for ", problem.modules.size(), " modules"));
  }
  const int64_t rows = LoraRows(problem);
  if (absl::Status status = CheckMatrix("x", x, rows, problem.k, problem.dtype); !status.ok()) {
    return status;
  }
  if (absl::Status status = CheckMatrix("S", s, rows, LoraSColumns(problem), problem.dtype);
      !status.ok()) {
    return status;
  }
  for (size_t g = 0; g < y.size(); ++g) {
    if (absl::Status status = CheckMatrix(absl::StrCat("y of module ", g), y[g], rows,
                                          problem.modules[g].n, problem.dtype);
        !status.ok()) {
      return status;
    }
  }
  return Gemm</*kGradient=*/false>(
      {"LoraForwardCuda", problem, absl::MakeConstSpan(&x, 1), s, y, nullptr, stream});
}

}  // namespace fedumm::kernels
