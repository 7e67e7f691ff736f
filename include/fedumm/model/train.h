#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/model/parameters.h"

namespace fedumm::model {

// The learning rate of a step: linear warm-up from 0 in step 0, then constant, or a half cosine
// that ends at `final_value` after `total_steps`. As get_constant_schedule_with_warmup and
// get_cosine_schedule_with_warmup of transformers, whose cosine ends at 0.
struct LearningRate {
  double value = 1e-3;
  int64_t warmup_steps = 0;
  bool cosine = false;
  double final_value = 0;   // of the cosine
  int64_t total_steps = 0;  // of the cosine, over all rounds

  double At(int64_t step) const;  // `step` from 0, over all rounds
};

// One gradient that was added to the gradients of a step.
struct GradientPart {
  int64_t step = 0;   // of this call of Train
  int64_t part = 0;   // of the step's losses, from 0
  int64_t parts = 1;  // accumulation_steps

  bool completes_step() const { return part + 1 == parts; }
};

// Changes gradients() as an algorithm needs. Called after each backward pass: until the step is
// complete they hold the sum so far of the losses' gradients, each divided by `parts`. Must not
// wait for the device.
using GradientHook = std::function<absl::Status(FlatParameters& parameters, const GradientPart&)>;

struct TrainOptions {
  int64_t steps = 1;
  int64_t first_step = 0;          // of this call in the learning rate's schedule
  int64_t accumulation_steps = 1;  // losses whose mean makes one step's gradient
  LearningRate learning_rate;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;   // decoupled
  double max_grad_norm = 0;  // over all parameters; 0: no clipping
  GradientHook
      on_gradients;  // before clipping and the step: FedProx, SCAFFOLD, DP-SGD; may be null
};

// mu (w - w0), the gradient of FedProx's term mu/2 |w - w0|^2. w0 is the parameters' values at this
// call.
GradientHook ProximalTerm(double mu, const FlatParameters& parameters);

// AdamW's moments. A default one is fresh; keep it to continue where a call of Train ended.
struct AdamWState {
  at::Tensor first_moment;   // [n], like FlatParameters::values()
  at::Tensor second_moment;  // [n]
  int64_t step = 0;
};

struct TrainStats {
  int64_t steps = 0;
  double mean_loss = 0;
  double first_loss = 0;
  double last_loss = 0;
  double max_grad_norm = 0;  // the largest norm before clipping
};

// The loss (scalar, with gradients) of call number `call`, from 0. Called steps *
// accumulation_steps times.
using LossFunction = std::function<absl::StatusOr<at::Tensor>(int64_t call)>;

inline constexpr int64_t kStepsBetweenSyncs = 1000;

// Minimizes `loss` by AdamW. `state` may be null (fresh). Waits for the device once, at the end; in
// longer calls every kStepsBetweenSyncs steps. Errors: those of `loss` and of on_gradients;
// INTERNAL, naming the first such step, for a loss or a gradient that is not finite: parameters and
// `state` are then as they were before that step. Equal inputs give equal bits.
absl::StatusOr<TrainStats> Train(FlatParameters& parameters, const LossFunction& loss,
                                 const TrainOptions& options, AdamWState* state = nullptr);

}  // namespace fedumm::model
