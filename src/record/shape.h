#pragma once

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"

namespace fedumm {

inline constexpr int64_t kMaxDims = 64;  // NumPy's

// Product of the dimensions, 1 for none. INVALID_ARGUMENT for a negative dimension, more than
// kMaxDims of them, or a product that overflows even if dimensions of 0 are left out: strides then
// fit in 64 bits whatever the order.
absl::StatusOr<int64_t> NumElements(std::span<const int64_t> shape);

}  // namespace fedumm
