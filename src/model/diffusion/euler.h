#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace fedumm::model {

// The steps of one drawing: the noise goes from sigmas[0] to sigmas.back(), which is 0.
struct EulerSteps {
  std::vector<float> timesteps;  // what the network is told, from high to low
  std::vector<float> sigmas;     // one more than timesteps
  float init_noise_sigma = 1;    // what the standard normal start is multiplied by
};

// diffusers' EulerDiscreteScheduler for a network that predicts the noise: betas linear in their
// square roots, timesteps with leading spacing.
class EulerScheduler {
 public:
  // Reads scheduler_config.json. INVALID_ARGUMENT names a field that asks for anything else.
  static absl::StatusOr<EulerScheduler> FromJson(std::string_view json, const std::string& where);

  int64_t max_steps() const { return static_cast<int64_t>(sigmas_.size()); }
  // INVALID_ARGUMENT unless `count` is in 1..max_steps().
  absl::StatusOr<EulerSteps> Steps(int64_t count) const;

 private:
  std::vector<double> sigmas_;  // of every training timestep
  int64_t steps_offset_ = 0;
};

// The shift of a FlowMatchEulerDiscreteScheduler: see SampleOptions. INVALID_ARGUMENT names a field
// that asks for more.
absl::StatusOr<double> FlowShiftFromJson(std::string_view json, const std::string& where);

}  // namespace fedumm::model
