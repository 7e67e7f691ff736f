#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <utility>

#include "fedumm/kernels.h"
#include "model/lora/kernel_type.h"
#include "model/lora/low_rank_products.h"

namespace fedumm::model {
namespace {

void Check(const absl::Status& status) { TORCH_CHECK(status.ok(), status.message()); }

// Where LibTorch's own kernels for this tensor run; the null stream on the host, where only a
// stand-in for CUDA's runtime runs kernels.
CUstream_st* StreamOf(const at::Tensor& x) {
  if (!x.is_cuda()) return nullptr;
  const c10::impl::VirtualGuardImpl devices(x.device().type());
  return static_cast<CUstream_st*>(devices.getStream(x.device()).native_handle());
}

kernels::Matrix MatrixOf(const at::Tensor& x) { return {x.mutable_data_ptr(), x.stride(0)}; }

// What the kernels are told of a group.
class Problem {
 public:
  Problem(const AdapterGroup& group, at::ScalarType dtype) {
    for (const Segment& segment : group.segments) {
      segments_.push_back({.rows = segment.rows, .dropout_key = segment.dropout_key});
    }
    for (size_t i = 0; i < group.linears.size(); ++i) {
      const AdaptedLinear& linear = group.linears[i];
      modules_.push_back({.n = linear.weight.size(0),
                          .w = MatrixOf(linear.weight),
                          .bias = linear.bias.defined() ? linear.bias.const_data_ptr() : nullptr});
      for (size_t segment = 0; segment < segments_.size(); ++segment) {
        const Factors& factors = linear.factors[segment];
        if (factors.rank() == 0) continue;
        segments_[segment].factors[i] = {
            .rank = factors.rank(),
            .scale = static_cast<float>(factors.scale * (1 - group.dropout)),
            .a = MatrixOf(factors.narrow_a),
            .b = MatrixOf(factors.narrow_b)};
      }
    }
    problem_ = {.dtype = *KernelType(dtype),
                .k = group.linears[0].weight.size(1),
                .modules = modules_,
                .segments = segments_,
                .dropout = group.dropout};
  }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;
  const kernels::LoraProblem& operator*() const { return problem_; }

 private:
  std::vector<kernels::LoraModule> modules_;
  std::vector<kernels::LoraSegment> segments_;
  kernels::LoraProblem problem_;
};

const uint32_t* BitsOf(const at::Tensor& mask) {
  return mask.defined() ? static_cast<const uint32_t*>(mask.const_data_ptr()) : nullptr;
}

// Gradients as the kernels take them; a zero in the place of an undefined one.
std::vector<kernels::ConstMatrix> MatricesOf(const AdapterGroup& group,
                                             const std::vector<at::Tensor>& dy,
                                             std::vector<at::Tensor>* zeros) {
  const at::Tensor* some = nullptr;
  for (const at::Tensor& gradient : dy) some = gradient.defined() ? &gradient : some;
  std::vector<kernels::ConstMatrix> matrices;
  for (size_t i = 0; i < dy.size(); ++i) {
    at::Tensor gradient = dy[i];
    if (!gradient.defined()) {
      gradient = at::zeros({some->size(0), group.linears[i].weight.size(0)}, some->options());
      zeros->push_back(gradient);
    }
    matrices.push_back(MatrixOf(gradient));
  }
  return matrices;
}

const at::Tensor& Defined(const std::vector<at::Tensor>& dy) {
  size_t i = 0;
  while (!dy[i].defined()) ++i;
  return dy[i];
}

at::Tensor Workspace(const kernels::LoraProblem& problem, const at::Tensor& like) {
  return at::empty({kernels::LoraWorkspaceBytes(problem)}, like.options().dtype(at::kByte));
}

class Cuda final : public LowRankProducts {
 public:
  void Prepare(AdapterGroup* group, at::ScalarType type) const override {
    for (AdaptedLinear& linear : group->linears) {
      for (Factors& factors : linear.factors) {
        if (factors.rank() == 0) continue;
        factors.narrow_a = factors.a.detach().to(type);
        factors.narrow_b = factors.b.detach().to(type);
      }
    }
  }

  at::Tensor Shrink(const AdapterGroup& group, const at::Tensor& x,
                    at::Tensor* mask) const override {
    const c10::DeviceGuard guard(x.device());
    const Problem problem(group, x.scalar_type());
    const at::Tensor s = at::empty({x.size(0), kernels::LoraSColumns(*problem)}, x.options());
    if (group.dropout > 0) {
      *mask = at::empty({x.size(0), kernels::DropoutWords(x.size(1))}, x.options().dtype(at::kInt));
    }
    Check(kernels::LoraShrinkCuda(*problem, MatrixOf(x), MatrixOf(s),
                                  const_cast<uint32_t*>(BitsOf(*mask)), StreamOf(x)));
    return s;
  }

  std::vector<at::Tensor> Outputs(const AdapterGroup& group, const at::Tensor& x,
                                  const at::Tensor& s) const override {
    const c10::DeviceGuard guard(x.device());
    const Problem problem(group, x.scalar_type());
    std::vector<at::Tensor> outputs;
    std::vector<kernels::Matrix> y;
    for (const AdaptedLinear& linear : group.linears) {
      outputs.push_back(at::empty({x.size(0), linear.weight.size(0)}, x.options()));
      y.push_back(MatrixOf(outputs.back()));
    }
    Check(kernels::LoraForwardCuda(*problem, MatrixOf(x), MatrixOf(s), y, StreamOf(x)));
    return outputs;
  }

  at::Tensor GradSB(const AdapterGroup& group, const std::vector<at::Tensor>& dy,
                    const at::Tensor& s) const override {
    const at::Tensor& like = Defined(dy);
    const c10::DeviceGuard guard(like.device());
    const Problem problem(group, like.scalar_type());
    std::vector<at::Tensor> zeros;
    std::vector<float*> db;
    for (size_t segment = 0; segment < group.segments.size(); ++segment) {
      for (size_t i = 0; i < dy.size(); ++i) {
        const Factors& factors = group.linears[i].factors[segment];
        const bool wanted = s.defined() && dy[i].defined() && factors.rank() > 0;
        db.push_back(wanted ? factors.b.mutable_grad().mutable_data_ptr<float>() : nullptr);
      }
    }
    const at::Tensor ds =
        at::empty({like.size(0), kernels::LoraSColumns(*problem)}, like.options());
    const at::Tensor workspace = Workspace(*problem, like);
    // Without S there is no dB to ask for, and dS does not read it.
    Check(kernels::LoraGradSBCuda(*problem, MatricesOf(group, dy, &zeros),
                                  s.defined() ? MatrixOf(s) : MatrixOf(ds), MatrixOf(ds), db,
                                  /*add=*/true, workspace.mutable_data_ptr(), StreamOf(like)));
    return ds;
  }

  void AddGradA(const AdapterGroup& group, const at::Tensor& x, const at::Tensor& mask,
                const at::Tensor& ds) const override {
    const c10::DeviceGuard guard(x.device());
    const Problem problem(group, x.scalar_type());
    std::vector<float*> da;
    for (size_t segment = 0; segment < group.segments.size(); ++segment) {
      for (const AdaptedLinear& linear : group.linears) {
        const Factors& factors = linear.factors[segment];
        da.push_back(factors.rank() > 0 ? factors.a.mutable_grad().mutable_data_ptr<float>()
                                        : nullptr);
      }
    }
    const at::Tensor workspace = Workspace(*problem, x);
    Check(kernels::LoraGradACuda(*problem, MatrixOf(ds), MatrixOf(x), BitsOf(mask), da,
                                 /*add=*/true, workspace.mutable_data_ptr(), StreamOf(x)));
  }

  at::Tensor GradX(const AdapterGroup& group, const std::vector<at::Tensor>& dy,
                   const at::Tensor& ds, const at::Tensor& mask) const override {
    const at::Tensor& like = Defined(dy);
    const c10::DeviceGuard guard(like.device());
    const Problem problem(group, like.scalar_type());
    std::vector<at::Tensor> zeros;
    at::Tensor dx = at::empty({like.size(0), group.linears[0].weight.size(1)}, like.options());
    Check(kernels::LoraGradXCuda(*problem, MatricesOf(group, dy, &zeros), MatrixOf(ds),
                                 BitsOf(mask), MatrixOf(dx), StreamOf(like)));
    return dx;
  }
};

}  // namespace

const LowRankProducts& CudaProducts() {
  static const Cuda products;
  return products;
}

}  // namespace fedumm::model
