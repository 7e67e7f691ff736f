#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace fedumm::model {

// The device that a setting names: "cpu", "cuda", "cuda:1", or "auto", which is "cuda" where that
// can be had and "cpu" elsewhere. LibTorch's CUDA half is loaded into the process by the first call
// that wants it, so that a program starts without it, a driver or CUDA's libraries.
// INVALID_ARGUMENT for another name; UNAVAILABLE, with the reason and the remedy, if the device
// cannot be had. Thread-safe.
absl::StatusOr<at::Device> OpenDevice(const std::string& name);

// The type of weights that a setting names: "float32", "bfloat16", "float16", or "auto", that of
// the files, which is null. INVALID_ARGUMENT for another name. Thread-safe.
absl::StatusOr<std::optional<at::ScalarType>> WeightType(const std::string& name);

}  // namespace fedumm::model
