#include "kernels/problem.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/philox.h"

namespace fedumm::kernels {
namespace {

constexpr int64_t kColumnStep = 8;  // what a module's columns of S are rounded up to

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat("LoRA: ", parts...));
}

}  // namespace

absl::Status CheckMatrix(const std::string& name, ConstMatrix matrix, int64_t rows, int64_t columns,
                         DType dtype) {
  if (rows == 0 || columns == 0) return absl::OkStatus();
  if (matrix.data == nullptr) return Invalid(name, " is null");
  if (reinterpret_cast<uintptr_t>(matrix.data) % static_cast<uintptr_t>(BytesOf(dtype)) != 0) {
    return Invalid(name, " is not aligned to its elements of ", BytesOf(dtype), " bytes");
  }
  if (matrix.stride < columns)
    return Invalid(name, " has rows of ", columns, " elements, but they are only ", matrix.stride,
                   " apart");
  if (rows > std::numeric_limits<int64_t>::max() / 8 / matrix.stride) {
    return Invalid(name, " of ", rows, " rows, ", matrix.stride,
                   " apart, is larger than memory can be");
  }
  return absl::OkStatus();
}

absl::Status CheckKept(const LoraProblem& problem, const uint32_t* kept) {
  if (problem.dropout == 0 || problem.k == 0 || LoraRows(problem) == 0) return absl::OkStatus();
  return CheckMatrix("the dropout mask", {kept, 1}, 1, 1, DType::kFloat32);
}

int64_t LoraRows(const LoraProblem& problem) {
  int64_t rows = 0;
  for (const LoraSegment& segment : problem.segments) rows += segment.rows;
  return rows;
}

int64_t LoraSColumn(const LoraProblem& problem, int64_t module) {
  int64_t columns = 0;
  for (int64_t g = 0; g < module; ++g) {
    int64_t rank = 0;
    for (const LoraSegment& segment : problem.segments)
      rank = std::max(rank, segment.factors[g].rank);
    columns += (rank + kColumnStep - 1) / kColumnStep * kColumnStep;
  }
  return columns;
}

int64_t LoraSColumns(const LoraProblem& problem) {
  return LoraSColumn(problem, static_cast<int64_t>(problem.modules.size()));
}

absl::Status CheckLoraProblem(const LoraProblem& problem) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  const auto modules = static_cast<int64_t>(problem.modules.size());
  if (modules < 1 || modules > kMaxModules)
    return Invalid("a group of ", modules, " modules; 1 to ", kMaxModules, " are possible");
  if (problem.k < 0 || problem.k > kMax) return Invalid("k = ", problem.k, " is outside 0..", kMax);
  if (!(problem.dropout >= 0 && problem.dropout < 1))
    return Invalid("dropout = ", problem.dropout, " is outside [0, 1)");
  int64_t rows = 0;
  for (const LoraSegment& segment : problem.segments) {
    if (segment.rows < 0 || segment.rows > kMax - rows)
      return Invalid("a segment of ", segment.rows, " rows; all together may have 0..", kMax);
    rows += segment.rows;
  }
  for (int64_t g = 0; g < modules; ++g) {
    const LoraModule& module = problem.modules[g];
    if (module.n < 0 || module.n > kMax)
      return Invalid("n = ", module.n, " of module ", g, " is outside 0..", kMax);
    if (absl::Status status = CheckMatrix(absl::StrCat("W of module ", g), module.w, module.n,
                                          problem.k, problem.dtype);
        !status.ok())
      return status;
    if (module.bias != nullptr) {
      if (absl::Status status = CheckMatrix(absl::StrCat("the bias of module ", g),
                                            {module.bias, module.n}, 1, module.n, problem.dtype);
          !status.ok()) {
        return status;
      }
    }
    for (size_t i = 0; i < problem.segments.size(); ++i) {
      const LoraFactors& factors = problem.segments[i].factors[g];
      const std::string where = absl::StrCat(" of module ", g, ", segment ", i);
      if (factors.rank < 0 || factors.rank > kMaxRank)
        return Invalid("rank ", factors.rank, where, " is outside 0..", kMaxRank);
      if (!std::isfinite(factors.scale)) return Invalid("the scale", where, " is not finite");
      if (absl::Status status = CheckMatrix(absl::StrCat("A", where), factors.a, factors.rank,
                                            problem.k, problem.dtype);
          !status.ok())
        return status;
      if (absl::Status status = CheckMatrix(absl::StrCat("B", where), factors.b, module.n,
                                            factors.rank, problem.dtype);
          !status.ok())
        return status;
    }
  }
  return absl::OkStatus();
}

uint32_t DropoutWord(double dropout, uint64_t key, int64_t row, int64_t word) {
  uint32_t kept = 0;
  for (int byte = 0; byte < 4; ++byte) {
    kept |= DropoutByte(DropoutThreshold(dropout), key, row, word * 4 + byte) << (8 * byte);
  }
  return kept;
}

}  // namespace fedumm::kernels
