#include "model/diffusion/unet.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/sin.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/backbone/ops.h"
#include "model/diffusion/config_reader.h"
#include "model/guarded.h"

namespace fedumm::model {
namespace {

// Fixed in the reference, not in the config.
constexpr double kTransformerNormEps = 1e-6;
constexpr double kLayerNormEps = 1e-5;
constexpr double kMaxPeriod = 10000.0;
constexpr int64_t kNumTimeIds = 6;
constexpr int64_t kTimeEmbeddingFactor = 4;  // time embedding to the first level's channels
constexpr int64_t kFeedForwardFactor = 4;
// No released network comes near these.
constexpr int64_t kMaxChannels = 1 << 16;
constexpr size_t kMaxLevels = 8;
constexpr int64_t kMaxLayersPerLevel = 64;

// Angular frequencies of `size / 2` waves.
at::Tensor WaveFrequencies(int64_t size, double freq_shift, at::Device device) {
  const int64_t half = size / 2;
  const double step = -std::log(kMaxPeriod) / (static_cast<double>(half) - freq_shift);
  return at::exp(at::arange(half, at::TensorOptions(at::kFloat)) * step).to(device);
}

void Note(BlockTrace* trace, const std::string& path, const at::Tensor& value) {
  if (trace != nullptr) (*trace)[path] = value;
}

// What every SDXL config says, and what this code computes.
void CheckKind(ConfigReader& fields) {
  fields.Only("act_fn", {"silu", "swish"});
  fields.Only("addition_embed_type", {"text_time"});
  fields.Only("attention_type", {"default"});
  fields.Only("center_input_sample", {false});
  fields.Only("class_embed_type", {});
  fields.Only("class_embeddings_concat", {false});
  fields.Only("conv_in_kernel", {3});
  fields.Only("conv_out_kernel", {3});
  fields.Only("cross_attention_norm", {});
  fields.Only("downsample_padding", {1});
  fields.Only("dual_cross_attention", {false});
  fields.Only("encoder_hid_dim", {});
  fields.Only("encoder_hid_dim_type", {});
  fields.Only("mid_block_only_cross_attention", {false});
  fields.Only("mid_block_scale_factor", {1, 1.0});
  fields.Only("mid_block_type", {"UNetMidBlock2DCrossAttn"});
  fields.Only("num_attention_heads", {});  // given, attention_head_dim would mean something else
  fields.Only("num_class_embeds", {});
  fields.Only("only_cross_attention", {false});
  fields.Only("resnet_out_scale_factor", {1, 1.0});
  fields.Only("resnet_skip_time_act", {false});
  fields.Only("resnet_time_scale_shift", {"default"});
  fields.Only("reverse_transformer_layers_per_block", {});
  fields.Only("time_cond_proj_dim", {});
  fields.Only("time_embedding_act_fn", {});
  fields.Only("time_embedding_dim", {});
  fields.Only("time_embedding_type", {"positional"});
  fields.Only("timestep_post_act", {});
  fields.Only("upcast_attention", {false});
  fields.Ignore("addition_embed_type_num_heads");  // of other kinds of added embedding
  fields.Ignore("dropout");                        // of training
}

}  // namespace

absl::StatusOr<UNetConfig> UNetConfig::FromJson(std::string_view json, const std::string& where) {
  ConfigReader fields(json, where);
  UNetConfig config;
  CheckKind(fields);
  const size_t levels = fields.Length("block_out_channels", kMaxLevels);
  config.sample_size = fields.Integer("sample_size", 1, 4096);
  config.in_channels = fields.Integer("in_channels", 1, kMaxChannels, 4);
  config.out_channels = fields.Integer("out_channels", 1, kMaxChannels, 4);
  config.block_out_channels = fields.Integers("block_out_channels", levels, 2, kMaxChannels);
  config.attends =
      fields.Choices("down_block_types", levels, {"DownBlock2D", "CrossAttnDownBlock2D"});
  std::vector<size_t> mirrored =
      fields.Choices("up_block_types", levels, {"UpBlock2D", "CrossAttnUpBlock2D"});
  std::reverse(mirrored.begin(), mirrored.end());
  fields.Require(mirrored == config.attends, "up_block_types",
                 "does not mirror down_block_types, which is not supported");
  config.layers_per_block = fields.Integer("layers_per_block", 1, kMaxLayersPerLevel, 2);
  config.transformer_layers =
      fields.Integers("transformer_layers_per_block", levels, 1, kMaxLayersPerLevel);
  config.num_heads = fields.Integers("attention_head_dim", levels, 1, kMaxChannels);
  config.norm_num_groups = fields.Integer("norm_num_groups", 1, kMaxChannels, 32);
  config.norm_eps = fields.Number("norm_eps", 1e-12, 1, 1e-5);
  config.cross_attention_dim = fields.Integer("cross_attention_dim", 1, kMaxChannels);
  config.addition_time_embed_dim = fields.Integer("addition_time_embed_dim", 2, kMaxChannels);
  config.added_embedding_in =
      fields.Integer("projection_class_embeddings_input_dim", 1, kMaxChannels * 8);
  config.flip_sin_to_cos = fields.Flag("flip_sin_to_cos", true);
  config.freq_shift = fields.Number("freq_shift", 0, 0.5, 0);
  fields.Require(fields.Flag("use_linear_projection", false), "use_linear_projection",
                 "is false, which is not supported");
  fields.Require(config.block_out_channels[0] % 2 == 0, "block_out_channels", "begins oddly");
  fields.Require(config.addition_time_embed_dim % 2 == 0, "addition_time_embed_dim", "is odd");
  fields.Require(config.added_embedding_in > kNumTimeIds * config.addition_time_embed_dim,
                 "projection_class_embeddings_input_dim",
                 "leaves nothing beside 6 times addition_time_embed_dim");
  for (size_t i = 0; i < levels; ++i) {
    fields.Require(config.block_out_channels[i] % config.norm_num_groups == 0, "norm_num_groups",
                   "does not divide an entry of block_out_channels");
    fields.Require(config.block_out_channels[i] % config.num_heads[i] == 0, "attention_head_dim",
                   "does not divide block_out_channels");
  }
  FEDUMM_RETURN_IF_ERROR(fields.Finish());
  return config;
}

at::Tensor UNet::LayerNorm::operator()(const at::Tensor& x) const {
  return at::layer_norm(x, {x.size(-1)}, weight, bias, kLayerNormEps);
}

at::Tensor UNet::Attention::operator()(const at::Tensor& x, const at::Tensor& context,
                                       int64_t heads) const {
  const auto split = [&](const at::Tensor& y) { return y.unflatten(2, {heads, -1}); };
  return out(Attend(split(q(x)), split(k(context)), split(v(context)), /*causal=*/false));
}

at::Tensor UNet::Transformer::operator()(const at::Tensor& x, const at::Tensor& tokens) const {
  at::Tensor h = proj_in(norm(x).flatten(2).transpose(1, 2));
  for (const TransformerLayer& layer : layers) {
    const at::Tensor normed = layer.norm1(h);
    h = layer.self(normed, normed, heads) + h;
    h = layer.cross(layer.norm2(h), tokens, heads) + h;
    const std::vector<at::Tensor> halves = layer.ffn_in(layer.norm3(h)).chunk(2, 2);
    h = layer.ffn_out(halves[0] * at::gelu(halves[1])) + h;
  }
  return proj_out(h).transpose(1, 2).reshape(x.sizes()) + x;
}

at::Tensor UNet::Embedding::operator()(const at::Tensor& x) const { return out(at::silu(in(x))); }

UNet::Attention UNet::TakeAttention(PartWeights& weights, const std::string& path, int64_t channels,
                                    int64_t context) {
  return {weights.TakeLinear(path + ".to_q", channels, channels, /*bias=*/false),
          weights.TakeLinear(path + ".to_k", context, channels, /*bias=*/false),
          weights.TakeLinear(path + ".to_v", context, channels, /*bias=*/false),
          weights.TakeLinear(path + ".to_out.0", channels, channels)};
}

UNet::Transformer UNet::TakeTransformer(PartWeights& weights, const std::string& path,
                                        size_t level) const {
  const int64_t channels = config_.block_out_channels[level];
  Transformer transformer;
  transformer.heads = config_.num_heads[level];
  transformer.norm =
      weights.TakeGroupNorm(path + ".norm", channels, config_.norm_num_groups, kTransformerNormEps);
  transformer.proj_in = weights.TakeLinear(path + ".proj_in", channels, channels);
  const auto norm = [&](const std::string& name) {
    return LayerNorm{weights.Take(name + ".weight", {channels}),
                     weights.Take(name + ".bias", {channels})};
  };
  for (int64_t i = 0; i < config_.transformer_layers[level]; ++i) {
    const std::string name = absl::StrCat(path, ".transformer_blocks.", i);
    const int64_t inner = kFeedForwardFactor * channels;
    TransformerLayer layer;
    layer.norm1 = norm(name + ".norm1");
    layer.self = TakeAttention(weights, name + ".attn1", channels, channels);
    layer.norm2 = norm(name + ".norm2");
    layer.cross = TakeAttention(weights, name + ".attn2", channels, config_.cross_attention_dim);
    layer.norm3 = norm(name + ".norm3");
    layer.ffn_in = weights.TakeLinear(name + ".ff.net.0.proj", channels, 2 * inner);
    layer.ffn_out = weights.TakeLinear(name + ".ff.net.2", inner, channels);
    transformer.layers.push_back(std::move(layer));
  }
  transformer.proj_out = weights.TakeLinear(path + ".proj_out", channels, channels);
  return transformer;
}

void UNet::TakeAll(PartWeights& weights) {
  const std::vector<int64_t>& channels = config_.block_out_channels;
  const size_t levels = channels.size();
  const int64_t time = kTimeEmbeddingFactor * channels[0];
  const auto resnet = [&](const std::string& path, int64_t in, int64_t out) {
    return weights.TakeResnet(path, in, out, time, config_.norm_num_groups, config_.norm_eps);
  };
  const auto embedding = [&](const std::string& path, int64_t in) {
    return Embedding{weights.TakeLinear(path + ".linear_1", in, time),
                     weights.TakeLinear(path + ".linear_2", time, time)};
  };
  time_frequencies_ = WaveFrequencies(channels[0], config_.freq_shift, weights.device());
  added_frequencies_ =
      WaveFrequencies(config_.addition_time_embed_dim, config_.freq_shift, weights.device());
  time_ = embedding("time_embedding", channels[0]);
  added_ = embedding("add_embedding", config_.added_embedding_in);
  conv_in_ = weights.TakeConvolution("conv_in", config_.in_channels, channels[0], 3);
  for (size_t i = 0; i < levels; ++i) {
    const std::string path = absl::StrCat("down_blocks.", i);
    Block block;
    for (int64_t j = 0; j < config_.layers_per_block; ++j) {
      const int64_t in = j > 0 || i == 0 ? channels[i] : channels[i - 1];
      block.resnets.push_back(resnet(absl::StrCat(path, ".resnets.", j), in, channels[i]));
      if (config_.attends[i] == 0) continue;
      block.attentions.push_back(
          TakeTransformer(weights, absl::StrCat(path, ".attentions.", j), i));
    }
    if (i + 1 < levels) {
      block.resampling = weights.TakeConvolution(path + ".downsamplers.0.conv", channels[i],
                                                 channels[i], 3, /*stride=*/2);
    }
    down_.push_back(std::move(block));
  }
  const int64_t deepest = channels.back();
  mid_.resnets.push_back(resnet("mid_block.resnets.0", deepest, deepest));
  mid_.attentions.push_back(TakeTransformer(weights, "mid_block.attentions.0", levels - 1));
  mid_.resnets.push_back(resnet("mid_block.resnets.1", deepest, deepest));
  for (size_t i = 0; i < levels; ++i) {
    const std::string path = absl::StrCat("up_blocks.", i);
    const size_t level = levels - 1 - i;
    const int64_t before = channels[std::min(level + 1, levels - 1)];
    const int64_t last_skip = channels[level == 0 ? 0 : level - 1];
    Block block;
    for (int64_t j = 0; j <= config_.layers_per_block; ++j) {
      const int64_t skip = j == config_.layers_per_block ? last_skip : channels[level];
      const int64_t in = (j == 0 ? before : channels[level]) + skip;
      block.resnets.push_back(resnet(absl::StrCat(path, ".resnets.", j), in, channels[level]));
      if (config_.attends[level] == 0) continue;
      block.attentions.push_back(
          TakeTransformer(weights, absl::StrCat(path, ".attentions.", j), level));
    }
    if (level > 0) {
      block.resampling =
          weights.TakeConvolution(path + ".upsamplers.0.conv", channels[level], channels[level], 3);
    }
    up_.push_back(std::move(block));
  }
  norm_out_ = weights.TakeGroupNorm("conv_norm_out", channels[0], config_.norm_num_groups,
                                    config_.norm_eps);
  conv_out_ = weights.TakeConvolution("conv_out", channels[0], config_.out_channels, 3);
}

absl::StatusOr<UNet> UNet::Create(const UNetConfig& config, PartWeights weights) {
  return Guarded([&]() -> absl::StatusOr<UNet> {
    UNet unet(config);
    unet.TakeAll(weights);
    FEDUMM_RETURN_IF_ERROR(weights.Finish());
    return unet;
  });
}

// [...] -> [..., 2 * frequencies], in fp32.
at::Tensor UNet::Waves(const at::Tensor& values, const at::Tensor& frequencies) const {
  const at::Tensor angles = values.to(at::kFloat).unsqueeze(-1) * frequencies;
  const at::Tensor sines = at::sin(angles);
  const at::Tensor cosines = at::cos(angles);
  return config_.flip_sin_to_cos ? at::cat({cosines, sines}, -1) : at::cat({sines, cosines}, -1);
}

at::Tensor UNet::TimeEmbedding(const at::Tensor& t, const at::Tensor& text_embeds,
                               const at::Tensor& time_ids, BlockTrace* trace) const {
  const at::ScalarType dtype = conv_in_.weight.scalar_type();
  const at::Tensor time = time_(Waves(t, time_frequencies_).to(dtype));
  const at::Tensor sizes = Waves(time_ids, added_frequencies_).flatten(1);
  const at::Tensor added = added_(at::cat({text_embeds.to(dtype), sizes.to(dtype)}, 1));
  Note(trace, "time_embedding", time);
  Note(trace, "add_embedding", added);
  return time + added;
}

at::Tensor UNet::Run(const at::Tensor& x, const at::Tensor& t, const at::Tensor& tokens,
                     const at::Tensor& text_embeds, const at::Tensor& time_ids,
                     BlockTrace* trace) const {
  const int64_t multiple = int64_t{1} << (down_.size() - 1);
  TORCH_CHECK(x.dim() == 4 && x.size(1) == config_.in_channels && x.size(2) % multiple == 0 &&
                  x.size(3) % multiple == 0,
              "UNet: latents of ", x.sizes());
  TORCH_CHECK(t.dim() == 1 && t.size(0) == x.size(0) && tokens.dim() == 3 &&
                  tokens.size(0) == x.size(0) && tokens.size(2) == config_.cross_attention_dim,
              "UNet: latents of ", x.sizes(), " with times of ", t.sizes(), " and tokens of ",
              tokens.sizes());
  TORCH_CHECK(text_embeds.size(0) == x.size(0) && time_ids.dim() == 2 &&
                  time_ids.size(0) == x.size(0) && time_ids.size(1) == kNumTimeIds,
              "UNet: text_embeds of ", text_embeds.sizes(), ", time_ids of ", time_ids.sizes());
  const at::ScalarType dtype = conv_in_.weight.scalar_type();
  const at::Tensor context = tokens.to(dtype);
  const at::Tensor embedding = TimeEmbedding(t, text_embeds, time_ids, trace);
  at::Tensor h = conv_in_(x.to(dtype));
  Note(trace, "conv_in", h);
  std::vector<at::Tensor> skips = {h};
  for (size_t i = 0; i < down_.size(); ++i) {
    const std::string path = absl::StrCat("down_blocks.", i);
    for (size_t j = 0; j < down_[i].resnets.size(); ++j) {
      h = down_[i].resnets[j](h, embedding);
      Note(trace, absl::StrCat(path, ".resnets.", j), h);
      if (!down_[i].attentions.empty()) {
        h = down_[i].attentions[j](h, context);
        Note(trace, absl::StrCat(path, ".attentions.", j), h);
      }
      skips.push_back(h);
    }
    if (down_[i].resampling.has_value()) {
      h = (*down_[i].resampling)(h);
      skips.push_back(h);
    }
    Note(trace, path, h);
  }
  h = mid_.resnets[0](h, embedding);
  h = mid_.resnets[1](mid_.attentions[0](h, context), embedding);
  Note(trace, "mid_block", h);
  for (size_t i = 0; i < up_.size(); ++i) {
    for (size_t j = 0; j < up_[i].resnets.size(); ++j) {
      h = up_[i].resnets[j](at::cat({h, skips.back()}, 1), embedding);
      skips.pop_back();
      if (!up_[i].attentions.empty()) h = up_[i].attentions[j](h, context);
    }
    if (up_[i].resampling.has_value()) h = Upsample(h, *up_[i].resampling);
    Note(trace, absl::StrCat("up_blocks.", i), h);
  }
  return conv_out_(at::silu(norm_out_(h)));
}

}  // namespace fedumm::model
