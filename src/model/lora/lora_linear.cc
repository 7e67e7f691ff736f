#include "model/lora/lora_linear.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <memory>
#include <utility>
#include <vector>

#include "model/lora/dropout_mask.h"

namespace fedumm::model {
namespace {

using torch::autograd::variable_list;

// What one Forward saves for the backward pass. A, B and W are not copied: they must not change
// before the backward pass has run.
struct LoraBackward final : public torch::autograd::Node {
  torch::autograd::SavedVariable x;  // [..., in]; unset if A and B are not trained
  at::Tensor s;                      // [m, r] in A's dtype; likewise
  at::Tensor mask;                   // [m, in] bool, undefined without dropout
  at::Tensor weight;
  at::Tensor a;
  at::Tensor b;
  double scale = 1;
  std::vector<int64_t> x_shape;

  variable_list apply(variable_list&& gradients) override;
  void release_variables() override {
    x.reset_data();
    s.reset();
    mask.reset();
  }
  std::string name() const override { return "LoraBackward"; }
};

// alpha * m1 m2, rounded once.
at::Tensor ScaledMm(const at::Tensor& m1, const at::Tensor& m2, double alpha) {
  at::Tensor product = at::empty({m1.size(0), m2.size(1)}, m1.options());
  return at::addmm_out(product, product, m1, m2, /*beta=*/0, alpha);
}

// Calls f(T()) with the C++ type of y, where it is one that the loops below take.
template <typename F>
bool OnHost(const at::Tensor& y, const F& f) {
  if (!y.is_cpu() || !y.is_contiguous()) return false;
  if (y.scalar_type() == at::kFloat) {
    f(float());
  } else if (y.scalar_type() == at::kBFloat16) {
    f(at::BFloat16());
  } else if (y.scalar_type() == at::kHalf) {
    f(at::Half());
  } else {
    return false;
  }
  return true;
}

constexpr int64_t kElementsPerThread = 32768;  // elements that are worth a thread

// x in A's dtype with the elements that `mask` (may be undefined) drops set to 0.
at::Tensor Kept(const at::Tensor& x, const at::Tensor& mask, at::ScalarType dtype) {
  if (!mask.defined()) return x.to(dtype);
  if (x.is_meta()) return at::empty(x.sizes(), x.options().dtype(dtype));
  at::Tensor kept;
  if (dtype == at::kFloat && OnHost(x, [&]<typename T>(T) {
        kept = at::empty(x.sizes(), x.options().dtype(at::kFloat));
        const T* const in = x.const_data_ptr<T>();
        const bool* const keep = mask.const_data_ptr<bool>();
        float* const out = kept.mutable_data_ptr<float>();
        at::parallel_for(0, x.numel(), kElementsPerThread, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) out[i] = keep[i] ? static_cast<float>(in[i]) : 0.0F;
        });
      })) {
    return kept;
  }
  return x.to(dtype) * mask;
}

// y += x, where y may have a narrower dtype and `mask` (may be undefined) drops elements of x.
void AddKept(const at::Tensor& y, const at::Tensor& x, const at::Tensor& mask) {
  if (y.is_meta()) return;
  if (x.scalar_type() == at::kFloat && x.is_contiguous() && OnHost(y, [&]<typename T>(T) {
        const float* const in = x.const_data_ptr<float>();
        const bool* const keep = mask.defined() ? mask.const_data_ptr<bool>() : nullptr;
        T* const out = y.mutable_data_ptr<T>();
        at::parallel_for(0, y.numel(), kElementsPerThread, [&](int64_t begin, int64_t end) {
          if (keep == nullptr) {
            for (int64_t i = begin; i < end; ++i) {
              out[i] = static_cast<T>(static_cast<float>(out[i]) + in[i]);
            }
          } else {
            for (int64_t i = begin; i < end; ++i) {
              out[i] = static_cast<T>(static_cast<float>(out[i]) + (keep[i] ? in[i] : 0.0F));
            }
          }
        });
      })) {
    return;
  }
  y.add_(mask.defined() ? x * mask : x);
}

// y += m1 m2, where y may have a narrower dtype.
void AddMm(const at::Tensor& y, const at::Tensor& m1, const at::Tensor& m2) {
  if (y.scalar_type() == m1.scalar_type()) {
    y.addmm_(m1, m2);
  } else {
    AddKept(y, at::mm(m1, m2), {});
  }
}

variable_list LoraBackward::apply(variable_list&& gradients) {
  TORCH_CHECK(!at::GradMode::is_enabled(), "LoRA has no second derivative");
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  variable_list inputs(1);
  if (!gradients[0].defined()) return inputs;
  const at::Tensor dy = gradients[0].reshape({-1, weight.size(0)});
  const at::Tensor dy_a = dy.to(a.scalar_type());
  const at::Tensor ds = ScaledMm(dy_a, b, scale);
  if (s.defined()) {
    const at::Tensor input = Kept(x.unpack().reshape({-1, weight.size(1)}), mask, a.scalar_type());
    a.mutable_grad().addmm_(ds.t(), input);
    b.mutable_grad().addmm_(dy_a.t(), s);
  }
  if (task_should_compute_output(0)) {
    at::Tensor dx = at::mm(dy, weight);
    if (mask.defined()) {
      AddKept(dx, at::mm(ds, a), mask);
    } else {
      AddMm(dx, ds, a);
    }
    inputs[0] = dx.view(x_shape);
  }
  return inputs;
}

}  // namespace

LoraLinear::LoraLinear(at::Tensor a, at::Tensor b, double scale)
    : a_(std::move(a)), b_(std::move(b)), scale_(scale) {}

void LoraLinear::SetDropout(double probability, Random random) {
  dropout_ = probability;
  seed_ = random.Next();
  draws_ = 0;
}

at::Tensor LoraLinear::Forward(const at::Tensor& x, const at::Tensor& weight,
                               const at::Tensor& bias) const {
  if (merged_) return at::linear(x, weight, bias);
  const bool train_adapter = at::GradMode::is_enabled() && a_.requires_grad();
  const bool needs_node = train_adapter || (at::GradMode::is_enabled() && x.requires_grad());
  const double scale = scale_ / (1 - dropout_);
  at::Tensor y, s, mask, rows;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    rows = x.dim() == 2 ? x : x.reshape({-1, x.size(-1)});
    if (dropout_ > 0) {
      const uint64_t key = Random(seed_, {static_cast<uint64_t>(draws_++)}).Next();
      mask = DropoutMask(rows.sizes(), rows.device(), dropout_, key);
    }
    s = ScaledMm(Kept(rows, mask, a_.scalar_type()), a_.t(), scale);
    y = bias.defined() ? at::addmm(bias, rows, weight.t()) : at::mm(rows, weight.t());
    AddMm(y, s, b_.t());
    if (x.dim() != 2) {
      std::vector<int64_t> shape = x.sizes().vec();
      shape.back() = weight.size(0);
      y = y.view(shape);
    }
  }
  if (!needs_node) return y;

  const std::shared_ptr<LoraBackward> node(new LoraBackward, torch::autograd::deleteNode);
  node->set_next_edges(torch::autograd::collect_next_edges(x));
  if (train_adapter) {
    node->x = torch::autograd::SavedVariable(x, /*is_output=*/false);
    node->s = std::move(s);
  }
  node->mask = std::move(mask);
  node->weight = weight;
  node->a = a_;
  node->b = b_;
  node->scale = scale;
  node->x_shape = x.sizes().vec();
  torch::autograd::set_history(y, node);
  return y;
}

}  // namespace fedumm::model
