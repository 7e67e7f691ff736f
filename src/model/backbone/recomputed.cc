#include "model/backbone/recomputed.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <string>
#include <utility>

#include "fedumm/model/backbone.h"

namespace fedumm::model {
namespace {

using torch::autograd::variable_list;

thread_local bool checkpointing = false;

std::vector<int64_t> DrawsOf(const std::vector<std::shared_ptr<LinearHook>>& hooks) {
  std::vector<int64_t> draws;
  for (const auto& hook : hooks) draws.push_back(hook == nullptr ? 0 : hook->draws());
  return draws;
}

void SetDraws(const std::vector<std::shared_ptr<LinearHook>>& hooks,
              const std::vector<int64_t>& draws) {
  for (size_t i = 0; i < hooks.size(); ++i) {
    if (hooks[i] != nullptr) hooks[i]->SetDraws(draws[i]);
  }
}

struct RecomputeBackward final : public torch::autograd::Node {
  std::function<at::Tensor(const at::Tensor&)> f;
  std::vector<std::shared_ptr<LinearHook>> hooks;
  std::vector<int64_t> draws;  // of the hooks before the forward pass
  torch::autograd::SavedVariable x;

  variable_list apply(variable_list&& gradients) override {
    TORCH_CHECK(!at::GradMode::is_enabled(), "a checkpointed layer has no second derivative");
    variable_list inputs(1);
    if (!gradients[0].defined()) return inputs;
    const at::Tensor input = x.unpack().detach();
    input.requires_grad_(task_should_compute_output(0));
    at::Tensor y;
    {
      const at::AutoGradMode with_gradients(true);
      const std::vector<int64_t> now = DrawsOf(hooks);
      SetDraws(hooks, draws);
      y = f(input);
      SetDraws(hooks, now);
    }
    torch::autograd::backward({y}, {gradients[0]});
    inputs[0] = input.grad();
    return inputs;
  }
  void release_variables() override {
    x.reset_data();
    f = nullptr;
    hooks.clear();
  }
  std::string name() const override { return "RecomputeBackward"; }
};

}  // namespace

GradientCheckpointing::GradientCheckpointing(bool on) : before_(std::exchange(checkpointing, on)) {}
GradientCheckpointing::~GradientCheckpointing() { checkpointing = before_; }
bool GradientCheckpointing::enabled() { return checkpointing; }

at::Tensor Recomputed(std::function<at::Tensor(const at::Tensor&)> f,
                      std::vector<std::shared_ptr<LinearHook>> hooks, const at::Tensor& x) {
  std::vector<int64_t> draws = DrawsOf(hooks);
  at::Tensor y;
  {
    // The graph tells whether there is anything to train; it goes at the end of this block.
    const at::Tensor with_graph = f(x);
    if (!with_graph.requires_grad()) return with_graph;
    y = with_graph.tensor_data();
  }
  const std::shared_ptr<RecomputeBackward> node(new RecomputeBackward, torch::autograd::deleteNode);
  node->set_next_edges(torch::autograd::collect_next_edges(x));
  node->f = std::move(f);
  node->hooks = std::move(hooks);
  node->draws = std::move(draws);
  node->x = torch::autograd::SavedVariable(x, /*is_output=*/false);
  torch::autograd::set_history(y, node);
  return y;
}

}  // namespace fedumm::model
