#include "model/diffusion/euler.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cumprod.h>
#include <ATen/ops/linspace.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/diffusion/config_reader.h"

namespace fedumm::model {

absl::StatusOr<EulerScheduler> EulerScheduler::FromJson(std::string_view json,
                                                        const std::string& where) {
  ConfigReader fields(json, where);
  fields.Only("_class_name", {"EulerDiscreteScheduler"});
  fields.Only("beta_schedule", {"scaled_linear"});
  fields.Only("final_sigmas_type", {"zero"});
  fields.Only("interpolation_type", {"linear"});
  fields.Only("prediction_type", {"epsilon"});
  fields.Only("rescale_betas_zero_snr", {false});
  fields.Only("sigma_max", {});
  fields.Only("sigma_min", {});
  fields.Only("timestep_spacing", {"leading"});
  fields.Only("timestep_type", {"discrete"});
  fields.Only("trained_betas", {});
  fields.Only("use_beta_sigmas", {false});
  fields.Only("use_exponential_sigmas", {false});
  fields.Only("use_karras_sigmas", {false});
  // SDXL's file still holds these of the scheduler that it was trained with; this one has none.
  for (const char* const other : {"clip_sample", "sample_max_value", "set_alpha_to_one",
                                  "skip_prk_steps", "clip_sample_range"}) {
    fields.Ignore(other);
  }
  // Without these fields the reference has another schedule.
  const bool complete = !fields.Missing("beta_schedule") && !fields.Missing("timestep_spacing");
  fields.Require(complete, "beta_schedule", "or timestep_spacing is missing");
  const int64_t count = fields.Integer("num_train_timesteps", 1, 1'000'000, 1000);
  const double start = fields.Number("beta_start", 0, 0.999, 0.0001);
  const double end = fields.Number("beta_end", start, 0.999, 0.02);
  EulerScheduler scheduler;
  scheduler.steps_offset_ = fields.Integer("steps_offset", 0, 1000, 0);
  FEDUMM_RETURN_IF_ERROR(fields.Finish());
  // In the reference's precision, so that the tables are the same.
  const at::Tensor roots = at::linspace(std::sqrt(start), std::sqrt(end), count, at::kFloat);
  const at::Tensor kept = at::cumprod(1 - roots * roots, 0);
  const at::Tensor sigmas = ((1 - kept) / kept).sqrt().contiguous();
  const float* const values = sigmas.const_data_ptr<float>();
  scheduler.sigmas_.assign(values, values + count);
  return scheduler;
}

absl::StatusOr<EulerSteps> EulerScheduler::Steps(int64_t count) const {
  if (count < 1 || count > max_steps()) {
    return absl::InvalidArgumentError(
        absl::StrCat("steps must be in 1..", max_steps(), ": ", count));
  }
  const int64_t stride = max_steps() / count;
  EulerSteps steps;
  for (int64_t i = count - 1; i >= 0; --i) {
    // Beyond the table's end its last value holds, as in the reference's interpolation.
    const int64_t t = i * stride + steps_offset_;
    steps.timesteps.push_back(static_cast<float>(t));
    steps.sigmas.push_back(
        static_cast<float>(sigmas_[static_cast<size_t>(std::min(t, max_steps() - 1))]));
  }
  const float highest = steps.sigmas.front();
  steps.init_noise_sigma = std::sqrt(highest * highest + 1);
  steps.sigmas.push_back(0);
  return steps;
}

absl::StatusOr<double> FlowShiftFromJson(std::string_view json, const std::string& where) {
  ConfigReader fields(json, where);
  fields.Only("_class_name", {"FlowMatchEulerDiscreteScheduler"});
  fields.Only("num_train_timesteps", {1000});
  fields.Only("use_dynamic_shifting", {false});
  fields.Only("shift_terminal", {});
  fields.Only("invert_sigmas", {false});
  fields.Only("stochastic_sampling", {false});
  for (const char* const unused :
       {"base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type"}) {
    fields.Ignore(unused);  // of dynamic shifting
  }
  const double shift = fields.Number("shift", 1e-3, 1e3, 1.0);
  FEDUMM_RETURN_IF_ERROR(fields.Finish());
  return shift;
}

}  // namespace fedumm::model
