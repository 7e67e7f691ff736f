#include "fedumm/model/train.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <optional>

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

// The L2 norm (scalar, fp64, on the tensor's device), summed in an order that does not depend on
// the number of threads. Not finite if an element is not.
at::Tensor NormOf(const at::Tensor& tensor) {
  if (!tensor.is_cpu()) {
    return at::linalg_vector_norm(tensor, 2, std::nullopt, /*keepdim=*/false, at::kDouble);
  }
  const float* values = tensor.const_data_ptr<float>();
  std::array<double, 8> sums = {};  // independent, so that the additions overlap
  const int64_t n = tensor.numel();
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int lane = 0; lane < 8; ++lane) {
      sums[lane] += static_cast<double>(values[i + lane]) * values[i + lane];
    }
  }
  for (; i < n; ++i) sums[0] += static_cast<double>(values[i]) * values[i];
  double sum = 0;
  for (const double part : sums) sum += part;
  return at::full({}, std::sqrt(sum), at::kDouble);
}

void ClipTo(double max_norm, const at::Tensor& norm, const at::Tensor& gradients) {
  gradients.mul_((max_norm / (norm + 1e-6)).clamp_max(1));
}

// The losses and norms of the steps since the last sync, on the device.
class StepLog {
 public:
  explicit StepLog(const at::Tensor& parameters)
      : losses_(at::empty({kStepsBetweenSyncs}, parameters.options().dtype(at::kDouble))),
        norms_(at::empty_like(losses_)),
        failed_(at::zeros({}, parameters.options().dtype(at::kBool))) {}

  void Add(const at::Tensor& loss, const at::Tensor& norm) {
    losses_.select(0, size_).copy_(loss);
    norms_.select(0, size_).copy_(norm);
    failed_ = failed_.logical_or((loss + norm).isfinite().logical_not());
    ++size_;
  }
  // 1 (scalar, fp32) once a loss or a norm was not finite, else 0.
  at::Tensor failed() const { return failed_.to(at::kFloat); }
  bool full() const { return size_ == kStepsBetweenSyncs; }

  // Waits for the device and adds the steps to `stats`, of `total_steps` in all. INTERNAL for the
  // first step that failed; no later one is added.
  absl::Status Sync(int64_t total_steps, TrainStats& stats) {
    const at::Tensor losses = losses_.narrow(0, 0, size_).cpu();
    const at::Tensor norms = norms_.narrow(0, 0, size_).cpu();
    size_ = 0;
    for (int64_t i = 0; i < losses.numel(); ++i) {
      const double loss = losses.const_data_ptr<double>()[i];
      const double norm = norms.const_data_ptr<double>()[i];
      if (!std::isfinite(loss)) {
        return absl::InternalError(absl::StrCat("the loss of step ", stats.steps, " is ", loss));
      }
      if (!std::isfinite(norm)) {
        return absl::InternalError(
            absl::StrCat("the gradient of step ", stats.steps, " is not finite"));
      }
      if (stats.steps == 0) stats.first_loss = loss;
      stats.last_loss = loss;
      stats.mean_loss += loss / static_cast<double>(total_steps);
      stats.max_grad_norm = std::max(stats.max_grad_norm, norm);
      ++stats.steps;
    }
    return absl::OkStatus();
  }

 private:
  at::Tensor losses_;
  at::Tensor norms_;
  at::Tensor failed_;
  int64_t size_ = 0;
};

void AdamWStep(FlatParameters& parameters, const TrainOptions& options, double learning_rate,
               const at::Tensor& skip, AdamWState& state) {
  if (!state.first_moment.defined()) {
    state.first_moment = at::zeros_like(parameters.values());
    state.second_moment = at::zeros_like(parameters.values());
  }
  ++state.step;
  const at::Tensor step =
      at::full({}, static_cast<double>(state.step), parameters.values().options());
  at::_fused_adamw_({parameters.values()}, {parameters.gradients()}, {state.first_moment},
                    {state.second_moment}, {}, {step}, learning_rate, options.beta1, options.beta2,
                    options.weight_decay, options.epsilon, /*amsgrad=*/false, /*maximize=*/false,
                    /*grad_scale=*/{}, /*found_inf=*/skip);
}

// Adds the gradients of one step's losses; the result is their mean (scalar, fp64).
absl::StatusOr<at::Tensor> Accumulate(FlatParameters& parameters, const LossFunction& loss,
                                      const TrainOptions& options, int64_t step) {
  const int64_t count = options.accumulation_steps;
  at::Tensor mean;
  for (int64_t i = 0; i < count; ++i) {
    FEDUMM_ASSIGN_OR_RETURN(const at::Tensor value, loss(step * count + i));
    const at::Tensor part = value.detach().to(at::kDouble) / static_cast<double>(count);
    mean = mean.defined() ? mean + part : part;
    if (count == 1) {
      value.backward();
    } else {
      value.backward(at::full({}, 1.0 / static_cast<double>(count), value.options()));
    }
    if (options.on_gradients != nullptr) {
      const at::NoGradGuard no_grad;
      FEDUMM_RETURN_IF_ERROR(
          options.on_gradients(parameters, {.step = step, .part = i, .parts = count}));
    }
  }
  return mean;
}

// One step; its loss and gradient norm go to `log`.
absl::Status Step(FlatParameters& parameters, const LossFunction& loss, const TrainOptions& options,
                  int64_t step, StepLog& log, AdamWState& state) {
  parameters.ZeroGradients();
  FEDUMM_ASSIGN_OR_RETURN(const at::Tensor mean, Accumulate(parameters, loss, options, step));
  const at::NoGradGuard no_grad;
  const at::Tensor norm = NormOf(parameters.gradients());
  log.Add(mean, norm);
  if (options.max_grad_norm > 0) ClipTo(options.max_grad_norm, norm, parameters.gradients());
  AdamWStep(parameters, options, options.learning_rate.At(options.first_step + step), log.failed(),
            state);
  return absl::OkStatus();
}

}  // namespace

double LearningRate::At(int64_t step) const {
  if (step < warmup_steps) {
    return value * static_cast<double>(step) / static_cast<double>(warmup_steps);
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
    return absl::InvalidArgumentError(absl::StrCat("optimizer state is for ",
                                                   state->first_moment.numel(), " values, not ",
                                                   parameters.size()));
  }
  const int64_t first_step = state->step;
  TrainStats stats;
  const absl::Status status = Guarded([&]() -> absl::Status {
    StepLog log(parameters.values());
    for (int64_t step = 0; step < options.steps; ++step) {
      const absl::Status stepped =
          Guarded([&] { return Step(parameters, loss, options, step, log, *state); });
      if (stepped.ok() && !log.full()) continue;
      // An earlier step that failed is the cause.
      FEDUMM_RETURN_IF_ERROR(log.Sync(options.steps, stats));
      FEDUMM_RETURN_IF_ERROR(stepped);
    }
    return log.Sync(options.steps, stats);
  });
  state->step = first_step + stats.steps;
  if (!status.ok()) return status;
  return stats;
}

GradientHook ProximalTerm(double mu, const FlatParameters& parameters) {
  return [mu, origin = parameters.values().clone()](FlatParameters& now, const GradientPart& part) {
    if (part.completes_step()) now.gradients().add_(now.values() - origin, mu);
    return absl::OkStatus();
  };
}

}  // namespace fedumm::model
