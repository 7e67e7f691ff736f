#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace fedumm::model {

// A bool tensor on `device`, false with `probability` (in [0, 1), in steps of 2^-16). Each element
// is a function of `key` and of its index alone, whatever the device and the number of threads:
// SplitMix64 of a counter gives 16 bits to each. Makes no work on the host that a GPU waits for.
at::Tensor DropoutMask(at::IntArrayRef shape, at::Device device, double probability, uint64_t key);

// DropoutMask as it is computed on a GPU, by tensor operations; gives the same on every device.
at::Tensor DropoutMaskByTensorOps(at::IntArrayRef shape, at::Device device, double probability,
                                  uint64_t key);

}  // namespace fedumm::model
