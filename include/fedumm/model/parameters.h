#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace fedumm::model {

// Parameters that are trained, moved into one contiguous buffer, and their gradients into another:
// what works on all of them is one pass over memory. Each tensor keeps its identity (every handle
// to it sees the move) and from then on requires gradients, which accumulate in the buffer.
class FlatParameters {
 public:
  // INVALID_ARGUMENT unless all are float32 leaves on one device. A tensor that occurs twice is one
  // parameter.
  static absl::StatusOr<FlatParameters> Create(std::vector<at::Tensor> parameters);

  const std::vector<at::Tensor>& tensors() const { return tensors_; }
  const at::Tensor& values() const { return values_; }        // [n]
  const at::Tensor& gradients() const { return gradients_; }  // [n]
  int64_t size() const { return values_.numel(); }
  void ZeroGradients();

 private:
  FlatParameters() = default;

  std::vector<at::Tensor> tensors_;
  at::Tensor values_;
  at::Tensor gradients_;
};

// SHA-256 over names, dtypes, shapes and bytes: equal before and after training if and only if no
// bit of a frozen backbone changed.
absl::StatusOr<std::string> HashParameters(const std::map<std::string, at::Tensor*>& parameters);

}  // namespace fedumm::model
