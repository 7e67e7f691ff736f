#include "model/diffusion/layers.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/group_norm.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/upsample_nearest2d.h>

namespace fedumm::model {

at::Tensor Convolution::operator()(const at::Tensor& x) const {
  const int64_t padding = weight.size(2) / 2;
  return at::conv2d(x, weight, bias, {stride, stride}, at::IntArrayRef({padding, padding}));
}

at::Tensor GroupNorm::operator()(const at::Tensor& x) const {
  return at::group_norm(x, groups, weight, bias, eps);
}

at::Tensor ResnetBlock::operator()(const at::Tensor& x, const at::Tensor& time_embedding) const {
  at::Tensor h = conv1(at::silu(norm1(x)));
  if (time.has_value()) {
    h = h + (*time)(at::silu(time_embedding)).unsqueeze(2).unsqueeze(3);
  }
  h = conv2(at::silu(norm2(h)));
  return (shortcut.has_value() ? (*shortcut)(x) : x) + h;
}

at::Tensor Upsample(const at::Tensor& x, const Convolution& convolution) {
  return convolution(at::upsample_nearest2d(x, {2 * x.size(2), 2 * x.size(3)}));
}

}  // namespace fedumm::model
