#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace fedumm::model {

// kernels::DropoutMaskCpu's mask of [rows, columns] by tensor operations, on any device: a bool
// tensor, false where an element is dropped. Makes no work on the host that a device waits for.
at::Tensor DropoutMask(int64_t rows, int64_t columns, at::Device device, double probability,
                       uint64_t key);

}  // namespace fedumm::model
