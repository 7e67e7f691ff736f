#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "base/random.h"
#include "fedumm/model/linear.h"

namespace fedumm::model {

// y = x Wᵀ + b + scale * dropout(x) Aᵀ Bᵀ as one node of the autograd graph, which keeps x and
// S = scale * x Aᵀ for the backward pass and nothing of the output's size. W and b get no gradient.
// The gradients of A and B are added to A.grad() and B.grad() directly, so these must be defined;
// torch::autograd::grad() with respect to A or B finds nothing. Computes the adapter in A's dtype,
// whatever the dtype of x. Not thread-safe where dropout is on or gradients are computed.
class LoraLinear final : public LinearHook {
 public:
  // A is [r, in], B is [out, r].
  LoraLinear(at::Tensor a, at::Tensor b, double scale);

  at::Tensor Forward(const at::Tensor& x, const at::Tensor& weight,
                     const at::Tensor& bias) const override;

  // From now on elements of x are dropped with `probability` (0: never). Equal `random` give equal
  // masks, call by call.
  void SetDropout(double probability, Random random);
  int64_t draws() const override { return draws_; }
  void SetDraws(int64_t draws) const override { draws_ = draws; }
  // While merged, W holds the adapter: Forward is the plain linear.
  void set_merged(bool merged) { merged_ = merged; }

  const at::Tensor& a() const { return a_; }
  const at::Tensor& b() const { return b_; }
  double scale() const { return scale_; }

 private:
  at::Tensor a_;
  at::Tensor b_;
  double scale_;
  bool merged_ = false;
  double dropout_ = 0;
  uint64_t seed_ = 0;          // with the number of the call, of the key of its mask
  mutable int64_t draws_ = 0;  // calls so far
};

}  // namespace fedumm::model
