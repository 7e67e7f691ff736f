// The layers that UNet and VAE share. Dtype and device are those of their tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "fedumm/model/linear.h"

namespace fedumm::model {

// Outputs of blocks by their path in the checkpoint, for those who compare them.
using BlockTrace = std::map<std::string, at::Tensor>;

// Pads so that a stride of 1 keeps the size.
struct Convolution {
  at::Tensor weight;  // [out, in, k, k], k odd
  at::Tensor bias;
  int64_t stride = 1;

  at::Tensor operator()(const at::Tensor& x) const;
};

struct GroupNorm {
  at::Tensor weight;
  at::Tensor bias;
  int64_t groups = 1;
  double eps = 1e-5;

  at::Tensor operator()(const at::Tensor& x) const;
};

// x + conv2(silu(norm2(conv1(silu(norm1(x))) + time(silu(time_embedding))))), with a 1x1
// convolution on x where the number of channels changes.
struct ResnetBlock {
  GroupNorm norm1;
  Convolution conv1;
  std::optional<Linear> time;
  GroupNorm norm2;
  Convolution conv2;
  std::optional<Convolution> shortcut;

  at::Tensor operator()(const at::Tensor& x, const at::Tensor& time_embedding = {}) const;
};

// Twice the size, each pixel repeated, then `convolution`.
at::Tensor Upsample(const at::Tensor& x, const Convolution& convolution);

}  // namespace fedumm::model
