#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <string_view>

#include "base/random.h"
#include "fedumm/model/backbone.h"

namespace fedumm::model {
namespace {

// What makes the DiT start as the zero function: its modulation, its gates and its last layer.
bool StartsAtZero(std::string_view name) {
  const auto contains = [&](std::string_view part) {
    return name.find(part) != std::string_view::npos;
  };
  return name.ends_with(".bias") || name.ends_with(".gate") || contains(".norm1.linear.") ||
         contains(".norm_out.") || contains(".caption_embedder.1.");
}

double StandardDeviation(std::string_view name, const std::vector<int64_t>& shape) {
  if (name == "model.latent_queries") return 1.0;
  if (name == "model.embed_tokens.weight") return 0.05;
  int64_t fan_in = 1;
  for (size_t i = 1; i < shape.size(); ++i) fan_in *= shape[i];
  return 0.6 / std::sqrt(static_cast<double>(fan_in));
}

}  // namespace

StateDict UnifiedModel::InitialState(const BackboneConfig& config, uint64_t seed) {
  Random random(seed);
  StateDict state;
  for (const auto& [name, shape] : ExpectedTensors(config)) {
    at::Tensor& tensor = state[name];
    if (StartsAtZero(name)) {
      tensor = at::zeros(shape, at::kFloat);
    } else if (shape.size() == 1) {
      tensor = at::ones(shape, at::kFloat);
    } else {
      tensor = at::zeros(shape, at::kFloat);
      const double deviation = StandardDeviation(name, shape);
      float* values = tensor.mutable_data_ptr<float>();
      for (int64_t i = 0; i < tensor.numel(); ++i)
        values[i] = static_cast<float>(deviation * random.Normal());
    }
  }
  return state;
}

}  // namespace fedumm::model
