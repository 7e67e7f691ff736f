#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/linear.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace fedumm::model {

struct Linear;

// Computes a Linear's output in its place: how an adapter is attached without the backbone knowing
// of adapters.
class LinearHook {
 public:
  virtual ~LinearHook() = default;
  virtual at::Tensor Forward(const at::Tensor& x, const at::Tensor& weight,
                             const at::Tensor& bias) const = 0;
  // The outputs of several linears that read the same x in one pass over it; this is the hook of
  // the first. Empty if they have to be computed one by one.
  virtual std::vector<at::Tensor> ForwardGroup(const at::Tensor& /*x*/,
                                               absl::Span<const Linear* const> /*linears*/) const {
    return {};
  }
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

// The outputs of linears that read the same x: q, k and v; gate and up.
inline std::vector<at::Tensor> ForwardGroup(const at::Tensor& x,
                                            absl::Span<const Linear* const> linears) {
  std::vector<at::Tensor> outputs;
  for (const Linear* linear : linears) {
    if (linear->hook == nullptr) continue;
    outputs = linear->hook->ForwardGroup(x, linears);
    break;
  }
  if (outputs.empty()) {
    for (const Linear* linear : linears) outputs.push_back((*linear)(x));
  }
  return outputs;
}

// A Linear with its module path in the checkpoint's own (file) layout, without ".weight":
// "model.layers.0.self_attn.q_proj".
struct NamedLinear {
  std::string path;
  Linear* linear;
};

}  // namespace fedumm::model
