// Gradient checkpointing: memory for the backward pass against the time of a second forward pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <vector>

#include "fedumm/model/linear.h"

namespace fedumm::model {

// f(x) as one node of the autograd graph that keeps x alone: its backward pass computes f(x) again,
// and its gradients from that. They go to x and, by accumulation, to the leaves that f uses.
// `hooks` (null ones are skipped) are those that f calls: they draw the same random masks again.
// `f` must give the same bits each time and keep what it uses alive.
at::Tensor Recomputed(std::function<at::Tensor(const at::Tensor&)> f,
                      std::vector<std::shared_ptr<LinearHook>> hooks, const at::Tensor& x);

}  // namespace fedumm::model
