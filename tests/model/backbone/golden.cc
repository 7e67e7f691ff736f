#include "tests/model/backbone/golden.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/max.h>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <limits>
#include <sstream>

#include "base/random.h"
#include "fedumm/model/checkpoint.h"

namespace fedumm::model {

std::string ReadTestFile(const std::string& name) {
  std::ifstream file(FEDUMM_TEST_DATA "/" + name);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

StateDict LoadGolden(const std::string& name) {
  absl::StatusOr<StateDict> state = LoadStateDict(FEDUMM_TEST_DATA "/" + name);
  if (!state.ok()) {
    std::cerr << state.status() << "\n";
    std::abort();
  }
  return *std::move(state);
}

double MaxDifference(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() || a.sizes() != b.sizes()) return std::numeric_limits<double>::infinity();
  const at::Tensor difference = at::abs(a.detach().to(at::kDouble) - b.detach().to(at::kDouble));
  return at::max(difference).item<double>();
}

double RelativeDifference(const at::Tensor& a, const at::Tensor& b) {
  return MaxDifference(a, b) / at::max(at::abs(b)).item<double>();
}

at::Tensor RandomTensor(at::IntArrayRef shape, uint64_t seed) {
  Random random(seed);
  at::Tensor tensor = at::empty(shape, at::kFloat);
  float* values = tensor.mutable_data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) values[i] = static_cast<float>(random.Normal());
  return tensor;
}

at::Tensor GradientOf(const at::Tensor& loss, const at::Tensor& input) {
  loss.backward({}, /*retain_graph=*/true);
  const at::Tensor gradient = input.grad().clone();
  input.mutable_grad().reset();
  return gradient;
}

BackboneConfig TinyConfig() {
  BackboneConfig config;
  config.text = {.vocab_size = 40,
                 .hidden_size = 96,
                 .intermediate_size = 256,
                 .num_hidden_layers = 3,
                 .num_attention_heads = 4,
                 .num_key_value_heads = 2,
                 .rms_norm_eps = 1e-6,
                 .rope_theta = 1e6,
                 .mrope_section = {4, 4, 4},
                 .tie_word_embeddings = true};
  config.vision = {.depth = 2,
                   .hidden_size = 64,
                   .intermediate_size = 160,
                   .num_heads = 4,
                   .in_channels = 3,
                   .patch_size = 8,
                   .temporal_patch_size = 2,
                   .spatial_merge_size = 2,
                   .window_size = 32,
                   .out_hidden_size = 96,
                   .fullatt_block_indexes = {1}};
  config.image_token_id = 4;
  config.video_token_id = 39;
  config.vision_start_token_id = 2;
  config.vision_end_token_id = 3;
  config.n_query = 16;
  config.dit = DitConfig{.dim = 64,
                         .n_layers = 3,
                         .n_heads = 4,
                         .in_channels = 16,
                         .input_size = 8,
                         .ffn_hidden_size = 176,
                         .latent_embedding_size = 96,
                         .norm_eps = 1e-5};
  return config;
}

}  // namespace fedumm::model
