// What the pre-trainings of tiny models have in common. These throw c10::Error as the backbone's
// methods do.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/demo.h"

namespace fedumm::model {

using PretrainProgressFn = std::function<void(const PretrainProgress&)>;
using BatchLoss = std::function<absl::StatusOr<at::Tensor>()>;

struct NamedStage {
  std::string_view name;
  const PretrainStage& stage;
};
// Trains the parameters under `prefixes` and `parameters`, then freezes them.
absl::Status RunStage(UnifiedModel& model, const NamedStage& named,
                      std::initializer_list<std::string_view> prefixes,
                      std::vector<at::Tensor> parameters, const BatchLoss& loss,
                      const PretrainProgressFn& progress);
// The tower's tokens of the pictures, scaled to `token_std`. Scales the tower, too.
absl::StatusOr<at::Tensor> ScaledTokens(UnifiedModel& model, std::span<const uint8_t> pixels,
                                        double token_std);
// As safetensors, with the recipe and its SHA-256 as metadata.
absl::Status SavePretrained(const std::string& path, const StateDict& state,
                            const std::string& recipe);

}  // namespace fedumm::model
