#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace fedumm::model {

// The decoder of a Qwen2.5-VL model. Names are those of its config.json.
struct TextConfig {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  double rms_norm_eps = 0;
  double rope_theta = 0;
  std::vector<int64_t>
      mrope_section;  // how the head_dim / 2 frequencies fall to time, row and column
  bool tie_word_embeddings =
      false;  // the head is the embedding matrix; a checkpoint then holds no lm_head

  int64_t head_dim() const { return hidden_size / num_attention_heads; }
};

// The vision tower.
struct VisionConfig {
  int64_t depth = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_heads = 0;
  int64_t in_channels = 0;
  int64_t patch_size = 0;
  int64_t temporal_patch_size = 0;
  int64_t spatial_merge_size = 0;
  int64_t window_size = 0;  // pixels
  int64_t out_hidden_size = 0;
  std::vector<int64_t> fullatt_block_indexes;  // the blocks that attend across windows

  int64_t head_dim() const { return hidden_size / num_heads; }
  int64_t patch_elements() const {
    return in_channels * temporal_patch_size * patch_size * patch_size;
  }
  int64_t merge_area() const { return spatial_merge_size * spatial_merge_size; }
};

// The diffusion transformer that turns the decoder's answer to the latent queries into image
// latents.
struct DitConfig {
  int64_t dim = 0;
  int64_t n_layers = 0;
  int64_t n_heads = 0;
  int64_t in_channels = 0;
  int64_t input_size = 0;             // latents are [in_channels, input_size, input_size]
  int64_t ffn_hidden_size = 0;        // what linear_1 and linear_3 give
  int64_t latent_embedding_size = 0;  // width of what conditions it: the decoder's hidden size
  double norm_eps = 0;

  int64_t head_dim() const { return dim / n_heads; }
  int64_t time_embedding_size() const { return dim < 1024 ? dim : 1024; }
};

// The sizes of a BLIP-3o style model: a Qwen2.5-VL backbone (vision tower and decoder) and, where
// images can also be drawn, latent queries and a DiT.
//
// FromJson reads the config.json beside a checkpoint, in the flat spelling of the published files
// (text fields at the root, rope_theta + rope_scaling) and the nested one of newer transformers
// (text_config, rope_parameters). The DiT is a "dit" object, or its fields at the root; a model
// with neither understands images but draws none. A DiT gives ffn_hidden_size, or multiple_of, from
// which its authors derive it: 2/3 * 4 * dim, rounded up to that multiple.
//
// No size, epsilon or token id has a default: a missing field, a wrong type, a size that does not
// divide where it must, use_sliding_window, an unknown rope type or activation is INVALID_ARGUMENT
// and names the field. Video is not supported: video_token_id is read so that prompts with it can
// be refused.
struct BackboneConfig {
  TextConfig text;
  VisionConfig vision;
  int64_t image_token_id = 0;
  int64_t video_token_id = 0;
  int64_t vision_start_token_id = 0;
  int64_t vision_end_token_id = 0;
  int64_t n_query = 0;  // latent queries; 0 exactly if there is no dit
  std::optional<DitConfig> dit;

  static absl::StatusOr<BackboneConfig> FromJson(std::string_view json);
  // The same with the checkpoint's tensors beside it. BLIP3o's config.json says how many latent
  // queries there are and nothing of the DiT: its sizes are then those of the tensors, and what no
  // tensor shows is what BLIP3o uses (patches of 1, query and key norms, an epsilon of 1e-5).
  static absl::StatusOr<BackboneConfig> FromJson(
      std::string_view json, const std::map<std::string, std::vector<int64_t>>& tensors);
  // What FromJson reads: the flat spelling, with a "dit" object.
  std::string ToJson() const;
  // The checks of FromJson, for a config that was filled in by hand.
  absl::Status Validate() const;
};

// A DiT's own config.json (no backbone around it).
absl::StatusOr<DitConfig> DitConfigFromJson(std::string_view json);

using TensorShapes = std::map<std::string, std::vector<int64_t>>;

// Name and shape of every tensor in a checkpoint of such a model, in the layout of the published
// files: "visual.*", "model.layers.*", "model.latent_queries", "model.dit.*", "lm_head.weight"
// unless tied. `config` must be valid.
TensorShapes ExpectedTensors(const BackboneConfig& config);
TensorShapes ExpectedTensors(const DitConfig& config);

}  // namespace fedumm::model
