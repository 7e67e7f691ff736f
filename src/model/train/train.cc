#include "fedumm/model/train.h"

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/guarded.h"

namespace fedumm::model {
namespace {

absl::Status CheckOptions(const TrainOptions& options) {
  const LearningRate& rate = options.learning_rate;
  const auto finite = [](double value) { return std::isfinite(value) && value >= 0; };
  if (options.steps < 0) {
    return absl::InvalidArgumentError(absl::StrCat("steps must not be negative: ", options.steps));
  }
  if (options.accumulation_steps < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("accumulation steps must be positive: ", options.accumulation_steps));
  }
  if (!finite(rate.value) || !finite(rate.final_value)) {
    return absl::InvalidArgumentError(
        absl::StrCat("learning rate must be finite and not negative: ", rate.value));
  }
  if (!finite(options.weight_decay) || !finite(options.max_grad_norm)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "weight decay and gradient norm must be finite and not negative: ", options.weight_decay,
        ", ", options.max_grad_norm));
  }
  return absl::OkStatus();
}

// The L2 norm, summed in a fixed order whatever the number of threads. Not finite if an element is
// not.
double NormOf(const at::Tensor& tensor) {
  const at::Tensor host = tensor.cpu();
  const float* values = host.const_data_ptr<float>();
  std::array<double, 8> sums = {};  // independent, so that the additions overlap
  const int64_t n = host.numel();
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int lane = 0; lane < 8; ++lane) {
      sums[lane] += static_cast<double>(values[i + lane]) * values[i + lane];
    }
  }
  for (; i < n; ++i) sums[0] += static_cast<double>(values[i]) * values[i];
  double sum = 0;
  for (const double part : sums) sum += part;
  return std::sqrt(sum);
}

void ClipTo(double max_norm, double norm, const at::Tensor& gradients) {
  const double factor = max_norm / (norm + 1e-6);
  if (factor < 1) gradients.mul_(factor);
}

void AdamWStep(FlatParameters& parameters, const TrainOptions& options, double learning_rate,
               AdamWState& state) {
  if (!state.first_moment.defined()) {
    state.first_moment = at::zeros_like(parameters.values());
    state.second_moment = at::zeros_like(parameters.values());
  }
  ++state.step;
  const at::Tensor step =
      at::full({}, static_cast<double>(state.step), parameters.values().options());
  at::_fused_adamw_({parameters.values()}, {parameters.gradients()}, {state.first_moment},
                    {state.second_moment}, {}, {step}, learning_rate, options.beta1, options.beta2,
                    options.weight_decay, options.epsilon, /*amsgrad=*/false, /*maximize=*/false);
}

// Adds the gradients of one step's losses; the result is their mean.
absl::StatusOr<double> Accumulate(const LossFunction& loss, int64_t step, int64_t count) {
  double mean = 0;
  for (int64_t i = 0; i < count; ++i) {
    FEDUMM_ASSIGN_OR_RETURN(const at::Tensor value, loss(step * count + i));
    const double number = value.item<double>();
    if (!std::isfinite(number)) {
      return absl::InternalError(absl::StrCat("the loss of step ", step, " is ", number));
    }
    mean += number / static_cast<double>(count);
    if (count == 1) {
      value.backward();
    } else {
      value.backward(at::full({}, 1.0 / static_cast<double>(count), value.options()));
    }
  }
  return mean;
}

}  // namespace

double LearningRate::At(int64_t step) const {
  if (step < warmup_steps) {
    return value * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  }
  if (!cosine || total_steps <= warmup_steps) return value;
  const double progress = std::min(1.0, static_cast<double>(step - warmup_steps) /
                                            static_cast<double>(total_steps - warmup_steps));
  return final_value + (value - final_value) * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

absl::StatusOr<TrainStats> Train(FlatParameters& parameters, const LossFunction& loss,
                                 const TrainOptions& options, AdamWState* state) {
  FEDUMM_RETURN_IF_ERROR(CheckOptions(options));
  AdamWState fresh;
  if (state == nullptr) state = &fresh;
  if (state->first_moment.defined() && state->first_moment.numel() != parameters.size()) {
    return absl::InvalidArgumentError(absl::StrCat("optimiser state is for ",
                                                   state->first_moment.numel(), " values, not ",
                                                   parameters.size()));
  }
  return Guarded([&]() -> absl::StatusOr<TrainStats> {
    TrainStats stats;
    for (int64_t step = 0; step < options.steps; ++step) {
      parameters.ZeroGradients();
      FEDUMM_ASSIGN_OR_RETURN(const double value,
                              Accumulate(loss, step, options.accumulation_steps));
      const at::NoGradGuard no_grad;
      const double norm = NormOf(parameters.gradients());
      if (!std::isfinite(norm)) {
        return absl::InternalError(absl::StrCat("the gradient of step ", step, " is not finite"));
      }
      if (options.max_grad_norm > 0) ClipTo(options.max_grad_norm, norm, parameters.gradients());
      AdamWStep(parameters, options, options.learning_rate.At(options.first_step + step), *state);
      if (step == 0) stats.first_loss = value;
      stats.last_loss = value;
      stats.mean_loss += value / static_cast<double>(options.steps);
      stats.max_grad_norm = std::max(stats.max_grad_norm, norm);
      ++stats.steps;
    }
    return stats;
  });
}

}  // namespace fedumm::model
