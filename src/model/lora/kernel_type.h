#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "fedumm/kernels.h"

namespace fedumm::model {

// The type of fedumm::kernels for LibTorch's; null for one that they do not compute in.
inline std::optional<kernels::DType> KernelType(at::ScalarType type) {
  if (type == at::kFloat) return kernels::DType::kFloat32;
  if (type == at::kBFloat16) return kernels::DType::kBFloat16;
  if (type == at::kHalf) return kernels::DType::kFloat16;
  return std::nullopt;
}

}  // namespace fedumm::model
