// What all tasks do with a batch: NextBatch makes its tensors on the host, Loss moves them to the
// model's device in one place.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "fedumm/model/task.h"

namespace fedumm::model {

// A host tensor [n] int64 with a copy of `values`.
at::Tensor IndexTensor(std::span<const int64_t> values);
// The values of a contiguous int64 host tensor, which outlives them.
std::span<const int64_t> IndexValues(const at::Tensor& tensor);

// The batch with every tensor on `device`. One that is there already is shared, not copied. What a
// step needs as numbers (sizes of pictures, lengths) it reads from the batch before the move.
Batch ToDevice(const Batch& batch, at::Device device);

}  // namespace fedumm::model
