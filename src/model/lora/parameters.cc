#include "fedumm/model/parameters.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <set>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "model/guarded.h"

namespace fedumm::model {

absl::StatusOr<FlatParameters> FlatParameters::Create(std::vector<at::Tensor> parameters) {
  return Guarded([&]() -> absl::StatusOr<FlatParameters> {
    FlatParameters flat;
    std::set<const void*> seen;
    int64_t size = 0;
    for (const at::Tensor& parameter : parameters) {
      if (!parameter.defined() || parameter.scalar_type() != at::kFloat || !parameter.is_leaf() ||
          parameter.device() != parameters[0].device()) {
        return absl::InvalidArgumentError(absl::StrCat(
            "parameter ", seen.size(), " is not a float32 leaf on the device of the first"));
      }
      if (!seen.insert(parameter.unsafeGetTensorImpl()).second) continue;
      size += parameter.numel();
      flat.tensors_.push_back(parameter);
    }
    if (size == 0) return absl::InvalidArgumentError("there are no parameters to train");
    const at::NoGradGuard no_grad;
    flat.values_ = at::empty({size}, flat.tensors_[0].options().requires_grad(false));
    flat.gradients_ = at::zeros_like(flat.values_);
    int64_t offset = 0;
    for (at::Tensor& tensor : flat.tensors_) {
      const int64_t n = tensor.numel();
      const at::Tensor slot = flat.values_.narrow(0, offset, n).view(tensor.sizes());
      slot.copy_(tensor);
      tensor.set_data(slot);
      tensor.set_requires_grad(true);
      tensor.mutable_grad() = flat.gradients_.narrow(0, offset, n).view(tensor.sizes());
      offset += n;
    }
    return flat;
  });
}

void FlatParameters::ZeroGradients() { gradients_.zero_(); }

}  // namespace fedumm::model
