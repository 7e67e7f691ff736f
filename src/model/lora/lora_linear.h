#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "base/random.h"
#include "fedumm/model/linear.h"

namespace fedumm::model {

// y = x Wᵀ + b + scale * dropout(x) Aᵀ Bᵀ as one node of the autograd graph, which keeps x,
// S = scale * x Aᵀ and a bit an element of x for the backward pass, and nothing of the output's
// size. Linears that read the same x are one node for all of them and share one dropout mask, that
// of the first with an adapter. W and b get no gradient. The gradients of A and B are added to
// A.grad() and B.grad() directly, so these must be defined; torch::autograd::grad() with respect to
// A or B finds nothing. Computes the adapter in A's dtype, whatever the dtype of x. Not thread-safe
// where dropout is on or gradients are computed.
class LoraLinear final : public LinearHook {
 public:
  // A is [r, in], B is [out, r].
  LoraLinear(at::Tensor a, at::Tensor b, double scale);

  at::Tensor Forward(const at::Tensor& x, const at::Tensor& weight,
                     const at::Tensor& bias) const override;
  // Empty if another kind of hook or another dropout is among them.
  std::vector<at::Tensor> ForwardGroup(const at::Tensor& x,
                                       absl::Span<const Linear* const> linears) const override;

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

  struct Member {  // one linear of a group
    const at::Tensor& weight;
    const at::Tensor& bias;
    std::vector<const LoraLinear*> adapters;  // one a segment; null: there is none
  };
  // The outputs of all members in one pass over x, whose rows are shared out to segments with an
  // adapter each. Empty if there is no adapter, or if they have not all one dtype and dropout.
  static std::vector<at::Tensor> RunTogether(const at::Tensor& x, absl::Span<const Member> members,
                                             absl::Span<const int64_t> segment_rows);

 private:
  // The key of the next mask.
  uint64_t Draw() const;

  at::Tensor a_;
  at::Tensor b_;
  double scale_;
  bool merged_ = false;
  double dropout_ = 0;
  uint64_t seed_ = 0;          // with the number of the call, of the key of its mask
  mutable int64_t draws_ = 0;  // calls so far
};

}  // namespace fedumm::model
