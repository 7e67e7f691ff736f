// The second phase of the gradients: partial sums of blocks, added up in a fixed order.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "fedumm/kernels.h"

namespace fedumm::kernels {

// out[rows, columns] = factor * (partials[0] + partials[1] + ...), first to last. Each partial is a
// float [rows, pitch] of which all columns up to the next multiple of 4 have a value.
struct PartialSum {
  const float* partials = nullptr;  // aligned to 16 bytes
  int64_t step = 0;                 // from a partial to the next
  int32_t parts = 0;
  int32_t pitch = 0;  // a multiple of 4, as `step` is
  int64_t rows = 0;
  int32_t columns = 0;
  float factor = 1;
  void* out = nullptr;
  int64_t stride = 0;     // of out
  bool to_float = false;  // out is float; otherwise it has the call's dtype
  bool add = false;       // to the float that is there
};

// Enqueues the sums; `function` is the one named in errors.
absl::Status SumPartials(DType dtype, const std::vector<PartialSum>& sums,
                         absl::string_view function, CUstream_st* stream);

}  // namespace fedumm::kernels
