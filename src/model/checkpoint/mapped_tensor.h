#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "absl/status/statusor.h"
#include "fedumm/model/safetensors.h"

namespace fedumm::model {

// Empty for a type that safetensors or LibTorch does not know.
std::optional<at::ScalarType> ScalarTypeOf(SafetensorsDType dtype);
std::optional<SafetensorsDType> SafetensorsDTypeOf(at::ScalarType dtype);

// A tensor over the mapped bytes of a file, which it keeps mapped; a copy where they are not
// aligned to an element. INVALID_ARGUMENT, naming the tensor, for a dtype that LibTorch does not
// have here.
absl::StatusOr<at::Tensor> MappedTensor(const SafetensorsFile& file,
                                        const SafetensorsTensor& tensor);

}  // namespace fedumm::model
