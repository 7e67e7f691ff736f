// Checks that the entry points of the low-rank kernels share.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "fedumm/kernels.h"

namespace fedumm::kernels {

inline int64_t BytesOf(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// INVALID_ARGUMENT if `matrix` cannot be [rows, columns] of `dtype`: null, misaligned, rows that
// overlap. The name is for the error's text. A matrix without elements may be anything.
absl::Status CheckMatrix(const std::string& name, ConstMatrix matrix, int64_t rows, int64_t columns,
                         DType dtype);

// Whether every row starts at a multiple of 16 bytes.
inline bool HasAlignedRows(const void* data, int64_t stride, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride * bytes % 16 == 0;
}

// Rows that the kernels can copy 16 bytes at a time. Strides end at 2^24, so that 32 bits count the
// elements of a tile's rows.
inline bool AreRowsWide(ConstMatrix matrix, int64_t rows, int64_t columns, int64_t bytes) {
  constexpr int64_t kLongest = 1 << 24;
  return rows == 0 || columns == 0 ||
         (HasAlignedRows(matrix.data, matrix.stride, bytes) && matrix.stride < kLongest);
}

// INVALID_ARGUMENT if there is dropout, but no mask to go with it.
absl::Status CheckKept(const LoraProblem& problem, const uint32_t* kept);

}  // namespace fedumm::kernels
