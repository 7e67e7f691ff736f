#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace fedumm::model {

// One client's adapter on one linear.
struct Factors {
  at::Tensor a;         // [r, in]; undefined without an adapter, which has the rank 0
  at::Tensor b;         // [out, r]
  double scale = 1;     // with the 1 / (1 - p) of dropout
  int64_t column = 0;   // where its part of S begins
  at::Tensor narrow_a;  // A and B in the type of x, if Prepare made them
  at::Tensor narrow_b;
  int64_t rank() const { return a.defined() ? a.size(0) : 0; }
};

// A linear y = x Wᵀ + bias, as one of a group that reads the same x.
struct AdaptedLinear {
  at::Tensor weight;             // [out, in]
  at::Tensor bias;               // [out] or undefined
  std::vector<Factors> factors;  // one a segment
};

// Rows of x, one after the other, that belong to one client.
struct Segment {
  int64_t rows = 0;
  uint64_t dropout_key = 0;
};

struct AdapterGroup {
  std::vector<AdaptedLinear> linears;  // not empty; the adapters have one dtype and device
  std::vector<Segment> segments;       // of all rows of x
  int64_t ranks = 0;                   // columns of S: the most that a segment has
  double dropout = 0;
  at::ScalarType dtype = at::kFloat;  // of the adapters
};

// The products of a group on one device. x is [m, in], a gradient or output of linear i [m, out_i]
// (undefined: zero), all in one dtype and contiguous; S = scale * dropout(x) Aᵀ [m, ranks] and its
// gradient dS (before the scale, which it carries) are for these functions alone. None records a
// graph.
class LowRankProducts {
 public:
  virtual ~LowRankProducts() = default;
  // Comes before the others, once a forward and backward pass; x has the dtype `type`.
  virtual void Prepare(AdapterGroup* /*group*/, at::ScalarType /*type*/) const {}
  // S, and in *mask what the other functions need to know of the dropout: undefined without.
  virtual at::Tensor Shrink(const AdapterGroup& group, const at::Tensor& x,
                            at::Tensor* mask) const = 0;
  // x Wᵀ + bias + S Bᵀ of each linear.
  virtual std::vector<at::Tensor> Outputs(const AdapterGroup& group, const at::Tensor& x,
                                          const at::Tensor& s) const = 0;
  // dS = scale * dY B; and B.grad() += dYᵀ S, if S is defined.
  virtual at::Tensor GradSB(const AdapterGroup& group, const std::vector<at::Tensor>& dy,
                            const at::Tensor& s) const = 0;
  // A.grad() += dSᵀ dropout(x).
  virtual void AddGradA(const AdapterGroup& group, const at::Tensor& x, const at::Tensor& mask,
                        const at::Tensor& ds) const = 0;
  // dX = the sum of dY W + dropout(dS A).
  virtual at::Tensor GradX(const AdapterGroup& group, const std::vector<at::Tensor>& dy,
                           const at::Tensor& ds, const at::Tensor& mask) const = 0;
};

// By LibTorch's own operations, for every device and dtype: what the others are compared with, and
// what computes the few rows of a decoding step.
const LowRankProducts& ComposedProducts();
// By the loops of fedumm::kernels, for float, bfloat16 and half x and float adapters on the CPU; on
// the meta device it allocates the same.
const LowRankProducts& CpuProducts();
// By the CUDA kernels of fedumm::kernels, for float, bfloat16 and half x on a CUDA device. S, dS
// and the factors that are multiplied have the type of x; the adapters and their gradients are
// float.
const LowRankProducts& CudaProducts();
// y and dX without adapters, by LibTorch.
at::Tensor FrozenOutput(const AdaptedLinear& linear, const at::Tensor& x);
at::Tensor FrozenGradX(const AdapterGroup& group, const std::vector<at::Tensor>& dy);
// The fastest for this group and x.
const LowRankProducts& ProductsFor(const AdapterGroup& group, const at::Tensor& x);

}  // namespace fedumm::model
