#include "model/train/meta_kernels.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <tuple>
#include <vector>

namespace fedumm::model {
namespace {

at::Tensor IndexSelect(const at::Tensor& x, int64_t dim, const at::Tensor& index) {
  std::vector<int64_t> shape = x.sizes().vec();
  if (!shape.empty()) shape[static_cast<size_t>(dim < 0 ? dim + x.dim() : dim)] = index.numel();
  return at::empty(shape, x.options());
}

using Triple = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

Triple LayerNorm(const at::Tensor& x, at::IntArrayRef shape,
                 const std::optional<at::Tensor>& /*weight*/,
                 const std::optional<at::Tensor>& /*bias*/, double /*eps*/) {
  std::vector<int64_t> rows = x.sizes().vec();
  for (size_t i = rows.size() - shape.size(); i < rows.size(); ++i) rows[i] = 1;
  return {at::empty(x.sizes(), x.options()), at::empty(rows, x.options()),
          at::empty(rows, x.options())};
}

Triple LayerNormBackward(const at::Tensor& /*dy*/, const at::Tensor& x, at::IntArrayRef /*shape*/,
                         const at::Tensor& /*mean*/, const at::Tensor& /*rstd*/,
                         const std::optional<at::Tensor>& weight,
                         const std::optional<at::Tensor>& bias, std::array<bool, 3> wanted) {
  const auto like = [](const at::Tensor& t) { return at::empty(t.sizes(), t.options()); };
  return {wanted[0] ? like(x) : at::Tensor(),
          wanted[1] && weight.has_value() ? like(*weight) : at::Tensor(),
          wanted[2] && bias.has_value() ? like(*bias) : at::Tensor()};
}

Triple GroupNorm(const at::Tensor& x, const std::optional<at::Tensor>& /*weight*/,
                 const std::optional<at::Tensor>& /*bias*/, int64_t n, int64_t /*channels*/,
                 int64_t /*area*/, int64_t groups, double /*eps*/) {
  return {at::empty(x.sizes(), x.options()), at::empty({n, groups}, x.options()),
          at::empty({n, groups}, x.options())};
}

at::Tensor Convolution(const at::Tensor& x, const at::Tensor& weight,
                       const std::optional<at::Tensor>& /*bias*/, at::IntArrayRef stride,
                       at::IntArrayRef padding, at::IntArrayRef dilation, bool /*transposed*/,
                       at::IntArrayRef /*output_padding*/, int64_t /*groups*/) {
  std::vector<int64_t> shape = {x.size(0), weight.size(0)};
  for (int64_t i = 2; i < x.dim(); ++i) {
    const auto axis = static_cast<size_t>(i - 2);
    const auto of = [&](at::IntArrayRef values) { return values[values.size() == 1 ? 0 : axis]; };
    const int64_t reach = of(dilation) * (weight.size(i) - 1) + 1;
    shape.push_back((x.size(i) + 2 * of(padding) - reach) / of(stride) + 1);
  }
  return at::empty(shape, x.options());
}

at::Tensor MseLossBackward(const at::Tensor& /*dy*/, const at::Tensor& x,
                           const at::Tensor& /*target*/, int64_t /*reduction*/) {
  return at::empty(x.sizes(), x.options());
}

at::Tensor LogicalNot(const at::Tensor& x) {
  return at::empty(x.sizes(), x.options().dtype(at::kBool));
}

}  // namespace

struct MetaKernels::Registered {
  torch::Library library{torch::Library::IMPL, "aten", c10::DispatchKey::Meta, __FILE__, __LINE__};
};

MetaKernels::MetaKernels() : registered_(std::make_unique<Registered>()) {
  torch::Library& library = registered_->library;
  library.impl("index_select", &IndexSelect);
  library.impl("native_layer_norm", &LayerNorm);
  library.impl("native_layer_norm_backward", &LayerNormBackward);
  library.impl("native_group_norm", &GroupNorm);
  library.impl("convolution", &Convolution);
  library.impl("mse_loss_backward", &MseLossBackward);
  library.impl("logical_not", &LogicalNot);
}

MetaKernels::~MetaKernels() = default;

}  // namespace fedumm::model
