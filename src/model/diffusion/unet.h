#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/model/linear.h"
#include "model/diffusion/layers.h"
#include "model/diffusion/weights.h"

namespace fedumm::model {

// The fields of unet/config.json that change the network. One entry per level where it is a list,
// the highest resolution first.
struct UNetConfig {
  int64_t sample_size = 0;  // of the latents that it was trained on
  int64_t in_channels = 0;
  int64_t out_channels = 0;
  std::vector<int64_t> block_out_channels;
  std::vector<size_t> attends;  // 1 where a level has cross attention
  int64_t layers_per_block = 0;
  std::vector<int64_t> transformer_layers;
  std::vector<int64_t> num_heads;  // "attention_head_dim" in the file, where it is the number
  int64_t norm_num_groups = 0;
  double norm_eps = 0;
  int64_t cross_attention_dim = 0;
  int64_t addition_time_embed_dim = 0;
  int64_t added_embedding_in = 0;  // projection_class_embeddings_input_dim
  bool flip_sin_to_cos = true;
  double freq_shift = 0;

  // INVALID_ARGUMENT, naming the field, for what is not SDXL's kind of network or not consistent.
  static absl::StatusOr<UNetConfig> FromJson(std::string_view json, const std::string& where);
};

// SDXL's UNet2DConditionModel: predicts the noise in latents. Thread-safe.
class UNet {
 public:
  static absl::StatusOr<UNet> Create(const UNetConfig& config, PartWeights weights);

  // x [B, in_channels, h, w] at the whole times t [B], under tokens [B, n, cross_attention_dim],
  // their summary text_embeds [B, added_embedding_in - 6 * addition_time_embed_dim] and time_ids
  // [B, 6] (original size, crop, target size). h and w must be multiples of 2^(levels - 1). Throws
  // c10::Error for other shapes. Results are in the weights' dtype.
  at::Tensor Run(const at::Tensor& x, const at::Tensor& t, const at::Tensor& tokens,
                 const at::Tensor& text_embeds, const at::Tensor& time_ids,
                 BlockTrace* trace = nullptr) const;
  const UNetConfig& config() const { return config_; }

 private:
  struct LayerNorm {
    at::Tensor weight;
    at::Tensor bias;
    at::Tensor operator()(const at::Tensor& x) const;
  };
  struct Attention {
    Linear q;
    Linear k;
    Linear v;
    Linear out;
    at::Tensor operator()(const at::Tensor& x, const at::Tensor& context, int64_t heads) const;
  };
  struct TransformerLayer {
    LayerNorm norm1;
    Attention self;
    LayerNorm norm2;
    Attention cross;
    LayerNorm norm3;
    Linear ffn_in;  // both halves of GEGLU
    Linear ffn_out;
  };
  struct Transformer {
    GroupNorm norm;
    Linear proj_in;
    std::vector<TransformerLayer> layers;
    Linear proj_out;
    int64_t heads = 1;
    at::Tensor operator()(const at::Tensor& x, const at::Tensor& tokens) const;
  };
  struct Block {
    std::vector<ResnetBlock> resnets;
    std::vector<Transformer> attentions;    // one for each resnet, or none
    std::optional<Convolution> resampling;  // none on the last level
  };
  struct Embedding {
    Linear in;
    Linear out;
    at::Tensor operator()(const at::Tensor& x) const;
  };

  explicit UNet(UNetConfig config) : config_(std::move(config)) {}
  void TakeAll(PartWeights& weights);
  static Attention TakeAttention(PartWeights& weights, const std::string& path, int64_t channels,
                                 int64_t context);
  Transformer TakeTransformer(PartWeights& weights, const std::string& path, size_t level) const;
  at::Tensor Waves(const at::Tensor& values, const at::Tensor& frequencies) const;
  at::Tensor TimeEmbedding(const at::Tensor& t, const at::Tensor& text_embeds,
                           const at::Tensor& time_ids, BlockTrace* trace) const;

  UNetConfig config_;
  at::Tensor time_frequencies_;
  at::Tensor added_frequencies_;
  Embedding time_;
  Embedding added_;
  Convolution conv_in_;
  std::vector<Block> down_;
  Block mid_;
  std::vector<Block> up_;
  GroupNorm norm_out_;
  Convolution conv_out_;
};

}  // namespace fedumm::model
