#include "model/tasks/batch.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <algorithm>

namespace fedumm::model {

at::Tensor IndexTensor(std::span<const int64_t> values) {
  at::Tensor tensor = at::empty({std::ssize(values)}, at::kLong);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<int64_t>());
  return tensor;
}

std::span<const int64_t> IndexValues(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<int64_t>(), static_cast<size_t>(tensor.numel())};
}

Batch ToDevice(const Batch& batch, at::Device device) {
  Batch moved;
  for (const auto& [name, tensor] : batch) {
    moved[name] = tensor.device() == device ? tensor : tensor.to(device, /*non_blocking=*/true);
  }
  return moved;
}

}  // namespace fedumm::model
