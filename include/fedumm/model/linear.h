#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/linear.h>

#include <memory>
#include <string>

namespace fedumm::model {

// Computes a Linear's output in its place: how an adapter is attached without the backbone knowing
// of adapters.
class LinearHook {
 public:
  virtual ~LinearHook() = default;
  virtual at::Tensor Forward(const at::Tensor& x, const at::Tensor& weight,
                             const at::Tensor& bias) const = 0;
};

// y = x Wᵀ + b with a frozen W [out, in] and b [out] (or undefined). Reading is thread-safe;
// setting the hook is not.
struct Linear {
  at::Tensor weight;
  at::Tensor bias;
  std::shared_ptr<LinearHook> hook;

  at::Tensor operator()(const at::Tensor& x) const {
    return hook == nullptr ? at::linear(x, weight, bias) : hook->Forward(x, weight, bias);
  }
};

// A Linear with its module path in the checkpoint's own (file) layout, without ".weight":
// "model.layers.0.self_attn.q_proj".
struct NamedLinear {
  std::string path;
  Linear* linear;
};

}  // namespace fedumm::model
