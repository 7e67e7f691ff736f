#include "kernels/gemm_launch.cuh"

namespace fedumm::kernels {

absl::Status LoraGradXCuda(const LoraProblem& problem, absl::Span<const ConstMatrix> dy,
                           ConstMatrix ds, const uint32_t* kept, Matrix dx, CUstream_st* stream) {
  if (absl::Status status = CheckLoraProblem(problem); !status.ok()) return status;
  if (dy.size() != problem.modules.size()) {
    return absl::InvalidArgumentError(absl::StrCat("LoRA: ", dy.size(), " gradients dY for ",
                                                   problem.modules.size(), " modules"));
  }
  const int64_t rows = LoraRows(problem);
  for (size_t g = 0; g < dy.size(); ++g) {
    if (absl::Status status = CheckMatrix(absl::StrCat("dY of module ", g), dy[g], rows,
                                          problem.modules[g].n, problem.dtype);
        !status.ok()) {
      return status;
    }
  }
  if (absl::Status status = CheckMatrix("dS", ds, rows, LoraSColumns(problem), problem.dtype);
      !status.ok()) {
    return status;
  }
  if (absl::Status status = CheckMatrix("dX", dx, rows, problem.k, problem.dtype); !status.ok()) {
    return status;
  }
  if (absl::Status status = CheckKept(problem, kept); !status.ok()) return status;
  return Gemm</*kGradient=*/true>({"LoraGradXCuda", problem, dy, ds, absl::MakeConstSpan(&dx, 1),
                                   problem.dropout > 0 ? kept : nullptr, stream});
}

}  // namespace fedumm::kernels
