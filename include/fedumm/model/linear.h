#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/linear.h>

#include <cstdint>
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
  // How many random masks Forward has drawn; after SetDraws(n) it draws those after the n-th again,
  // so that a layer can be computed a second time with the same bits. A hook without chance needs
  // neither.
  virtual int64_t draws() const { return 0; }
  virtual void SetDraws(int64_t /*draws*/) const {}
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
