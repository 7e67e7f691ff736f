#include "model/lora/lora_linear.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/linear.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "model/lora/low_rank_products.h"

namespace fedumm::model {
namespace {

using torch::autograd::variable_list;

// What one pass over a group saves for the backward pass. A, B and W are not copied: they must not
// change before the backward pass has run.
struct LoraBackward final : public torch::autograd::Node {
  AdapterGroup group;
  torch::autograd::SavedVariable x;  // [..., in]; unset if A and B are not trained
  at::Tensor s;                      // likewise
  at::Tensor mask;
  std::vector<int64_t> x_shape;
  const LowRankProducts* products = nullptr;

  variable_list apply(variable_list&& gradients) override {
    TORCH_CHECK(!at::GradMode::is_enabled(), "LoRA has no second derivative");
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    variable_list inputs(1);
    std::vector<at::Tensor> dy;
    bool any = false;
    for (size_t i = 0; i < gradients.size(); ++i) {
      any = any || gradients[i].defined();
      dy.push_back(gradients[i].defined()
                       ? gradients[i].reshape({-1, group.linears[i].weight.size(0)}).contiguous()
                       : at::Tensor());
    }
    if (!any) return inputs;
    const at::Tensor ds = products->GradSB(group, dy, s);
    if (s.defined() && ds.defined()) {
      const at::Tensor rows = x.unpack().reshape({-1, x_shape.back()}).contiguous();
      products->AddGradA(group, rows, mask, ds);
    }
    if (task_should_compute_output(0)) {
      inputs[0] = products->GradX(group, dy, ds, mask).view(x_shape);
    }
    return inputs;
  }
  void release_variables() override {
    x.reset_data();
    s.reset();
    mask.reset();
  }
  std::string name() const override { return "LoraBackward"; }
};

}  // namespace

LoraLinear::LoraLinear(at::Tensor a, at::Tensor b, double scale)
    : a_(std::move(a)), b_(std::move(b)), scale_(scale) {}

void LoraLinear::SetDropout(double probability, Random random) {
  dropout_ = probability;
  seed_ = random.Next();
  draws_ = 0;
}

uint64_t LoraLinear::Draw() const {
  return Random(seed_, {static_cast<uint64_t>(draws_++)}).Next();
}

at::Tensor LoraLinear::Forward(const at::Tensor& x, const at::Tensor& weight,
                               const at::Tensor& bias) const {
  if (merged_) return at::linear(x, weight, bias);
  const Member member{weight, bias, {this}};
  return RunTogether(x, {&member, 1}, {x.numel() / x.size(-1)})[0];
}

std::vector<at::Tensor> LoraLinear::ForwardGroup(const at::Tensor& x,
                                                 absl::Span<const Linear* const> linears) const {
  std::vector<Member> members;
  for (const Linear* linear : linears) {
    const LoraLinear* lora = nullptr;
    if (linear->hook != nullptr) {
      lora = dynamic_cast<const LoraLinear*>(linear->hook.get());
      if (lora == nullptr) return {};
    }
    members.push_back({linear->weight, linear->bias, {lora}});
  }
  return RunTogether(x, members, {x.numel() / x.size(-1)});
}

std::vector<at::Tensor> LoraLinear::RunTogether(const at::Tensor& x,
                                                absl::Span<const Member> members,
                                                absl::Span<const int64_t> segment_rows) {
  const LoraLinear* first = nullptr;  // whose dtype, dropout and training are those of all
  for (const Member& member : members) {
    for (const LoraLinear* lora : member.adapters) {
      if (lora == nullptr || lora->merged_) continue;
      if (first == nullptr) first = lora;
      if (lora->dropout_ != first->dropout_ || lora->a_.scalar_type() != first->a_.scalar_type() ||
          lora->a_.requires_grad() != first->a_.requires_grad()) {
        return {};
      }
    }
  }
  if (first == nullptr) return {};
  AdapterGroup group{.dropout = first->dropout_, .dtype = first->a_.scalar_type()};
  for (const Member& member : members) {
    group.linears.push_back({.weight = member.weight, .bias = member.bias});
  }
  for (size_t i = 0; i < segment_rows.size(); ++i) {
    Segment segment{.rows = segment_rows[i]};
    int64_t ranks = 0;
    for (size_t m = 0; m < members.size(); ++m) {
      Factors factors{.column = ranks};
      if (const LoraLinear* const lora = members[m].adapters[i];
          lora != nullptr && !lora->merged_) {
        factors.a = lora->a_;
        factors.b = lora->b_;
        factors.scale = lora->scale_ / (1 - lora->dropout_);
        if (ranks == 0 && lora->dropout_ > 0) segment.dropout_key = lora->Draw();
        ranks += factors.rank();
      }
      group.linears[m].factors.push_back(std::move(factors));
    }
    group.ranks = std::max(group.ranks, ranks);
    group.segments.push_back(segment);
  }
  const bool train = at::GradMode::is_enabled() && first->a_.requires_grad();
  at::Tensor s, mask;
  std::vector<at::Tensor> outputs;
  const LowRankProducts* products = nullptr;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::Tensor rows = x.reshape({-1, x.size(-1)}).contiguous();
    products = &ProductsFor(group, rows);
    products->Prepare(&group, rows.scalar_type());
    s = products->Shrink(group, rows, &mask);
    outputs = products->Outputs(group, rows, s);
    if (x.dim() != 2) {
      std::vector<int64_t> shape = x.sizes().vec();
      for (at::Tensor& y : outputs) {
        shape.back() = y.size(1);
        y = y.view(shape);
      }
    }
  }
  if (!train && !(at::GradMode::is_enabled() && x.requires_grad())) return outputs;

  const std::shared_ptr<LoraBackward> node(new LoraBackward, torch::autograd::deleteNode);
  node->set_next_edges(torch::autograd::collect_next_edges(x));
  if (train) {
    node->x = torch::autograd::SavedVariable(x, /*is_output=*/false);
    node->s = std::move(s);
  }
  node->mask = std::move(mask);
  node->group = std::move(group);
  node->x_shape = x.sizes().vec();
  node->products = products;
  torch::autograd::set_history(outputs, node);
  return outputs;
}

}  // namespace fedumm::model
