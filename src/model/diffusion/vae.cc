#include "model/diffusion/vae.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/silu.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/backbone/ops.h"
#include "model/diffusion/config_reader.h"
#include "model/guarded.h"

namespace fedumm::model {
namespace {

constexpr double kVaeNormEps = 1e-6;  // fixed in the reference
constexpr int64_t kMaxVaeChannels = 1 << 16;
constexpr size_t kMaxVaeLevels = 8;

void TraceBlock(BlockTrace* trace, const std::string& path, const at::Tensor& value) {
  if (trace != nullptr) (*trace)[path] = value;
}

// Fades from the end of `before` to the beginning of `tile` along `dim` over `extent` pixels.
at::Tensor Blend(const at::Tensor& before, const at::Tensor& tile, int64_t dim, int64_t extent) {
  extent = std::min({extent, before.size(dim), tile.size(dim)});
  std::vector<int64_t> shape(static_cast<size_t>(tile.dim()), 1);
  shape[static_cast<size_t>(dim)] = extent;
  const at::Tensor share =
      (at::arange(extent, tile.options()) / static_cast<double>(extent)).view(shape);
  const at::Tensor faded = before.slice(dim, before.size(dim) - extent) * (1 - share) +
                           tile.slice(dim, 0, extent) * share;
  return at::cat({faded, tile.slice(dim, extent)}, dim);
}

}  // namespace

absl::StatusOr<VaeConfig> VaeConfig::FromJson(std::string_view json, const std::string& where) {
  ConfigReader fields(json, where);
  VaeConfig config;
  const size_t levels = fields.Length("block_out_channels", kMaxVaeLevels);
  fields.Only("act_fn", {"silu", "swish"});
  fields.Only("latents_mean", {});
  fields.Only("latents_std", {});
  fields.Only("shift_factor", {});
  fields.Only("mid_block_add_attention", {true});
  fields.Choices("up_block_types", levels, {"UpDecoderBlock2D"});
  for (const char* const encoder : {"in_channels", "down_block_types", "use_quant_conv"}) {
    fields.Ignore(encoder);
  }
  // Both say how the reference may be called. force_upcast is about fp16, which is never used.
  fields.Ignore("force_upcast");
  fields.Ignore("sample_size");
  config.latent_channels = fields.Integer("latent_channels", 1, kMaxVaeChannels, 4);
  config.out_channels = fields.Integer("out_channels", 3, 3, 3);
  config.block_out_channels = fields.Integers("block_out_channels", levels, 1, kMaxVaeChannels);
  config.layers_per_block = fields.Integer("layers_per_block", 1, 64, 1);
  config.norm_num_groups = fields.Integer("norm_num_groups", 1, kMaxVaeChannels, 32);
  config.scaling_factor = fields.Number("scaling_factor", 1e-6, 1e6, 0.18215);
  config.post_quant_conv = fields.Flag("use_post_quant_conv", true);
  for (const int64_t channels : config.block_out_channels) {
    fields.Require(channels % config.norm_num_groups == 0, "norm_num_groups",
                   "does not divide an entry of block_out_channels");
  }
  FEDUMM_RETURN_IF_ERROR(fields.Finish());
  return config;
}

at::Tensor VaeDecoder::Attention::operator()(const at::Tensor& x) const {
  const at::Tensor h = norm(x).flatten(2).transpose(1, 2);
  const auto one_head = [](const at::Tensor& y) { return y.unsqueeze(2); };
  const at::Tensor attended =
      out(Attend(one_head(q(h)), one_head(k(h)), one_head(v(h)), /*causal=*/false));
  return attended.transpose(1, 2).reshape(x.sizes()) + x;
}

void VaeDecoder::TakeAll(PartWeights& weights) {
  const std::vector<int64_t>& channels = config_.block_out_channels;
  const int64_t deepest = channels.back();
  const int64_t groups = config_.norm_num_groups;
  const auto resnet = [&](const std::string& path, int64_t in, int64_t out) {
    return weights.TakeResnet(path, in, out, /*time_channels=*/0, groups, kVaeNormEps);
  };
  if (config_.post_quant_conv) {
    post_quant_ = weights.TakeConvolution("post_quant_conv", config_.latent_channels,
                                          config_.latent_channels, 1);
  }
  conv_in_ = weights.TakeConvolution("decoder.conv_in", config_.latent_channels, deepest, 3);
  const std::string attention = "decoder.mid_block.attentions.0.";
  mid_in_ = resnet("decoder.mid_block.resnets.0", deepest, deepest);
  mid_attention_.norm =
      weights.TakeGroupNorm(attention + "group_norm", deepest, groups, kVaeNormEps);
  mid_attention_.q = weights.TakeLinear(attention + "to_q", deepest, deepest);
  mid_attention_.k = weights.TakeLinear(attention + "to_k", deepest, deepest);
  mid_attention_.v = weights.TakeLinear(attention + "to_v", deepest, deepest);
  mid_attention_.out = weights.TakeLinear(attention + "to_out.0", deepest, deepest);
  mid_out_ = resnet("decoder.mid_block.resnets.1", deepest, deepest);
  int64_t in = deepest;
  for (size_t i = 0; i < channels.size(); ++i) {
    const std::string path = absl::StrCat("decoder.up_blocks.", i);
    const int64_t out = channels[channels.size() - 1 - i];
    Block block;
    for (int64_t j = 0; j <= config_.layers_per_block; ++j) {
      block.resnets.push_back(resnet(absl::StrCat(path, ".resnets.", j), in, out));
      in = out;
    }
    if (i + 1 < channels.size()) {
      block.upsampling = weights.TakeConvolution(path + ".upsamplers.0.conv", out, out, 3);
    }
    up_.push_back(std::move(block));
  }
  norm_out_ = weights.TakeGroupNorm("decoder.conv_norm_out", channels[0], groups, kVaeNormEps);
  conv_out_ = weights.TakeConvolution("decoder.conv_out", channels[0], config_.out_channels, 3);
}

absl::StatusOr<VaeDecoder> VaeDecoder::Create(const VaeConfig& config, PartWeights weights) {
  return Guarded([&]() -> absl::StatusOr<VaeDecoder> {
    VaeDecoder decoder(config);
    decoder.TakeAll(weights);
    FEDUMM_RETURN_IF_ERROR(weights.Finish({"encoder.", "quant_conv."}));
    return decoder;
  });
}

at::Tensor VaeDecoder::Decode(const at::Tensor& latents, BlockTrace* trace) const {
  TORCH_CHECK(latents.dim() == 4 && latents.size(1) == config_.latent_channels,
              "VaeDecoder: latents of ", latents.sizes());
  at::Tensor h = latents.to(dtype());
  if (post_quant_.has_value()) h = (*post_quant_)(h);
  TraceBlock(trace, "post_quant_conv", h);
  h = mid_out_(mid_attention_(mid_in_(conv_in_(h))));
  TraceBlock(trace, "mid_block", h);
  for (size_t i = 0; i < up_.size(); ++i) {
    for (const ResnetBlock& resnet : up_[i].resnets) h = resnet(h);
    if (up_[i].upsampling.has_value()) h = Upsample(h, *up_[i].upsampling);
    TraceBlock(trace, absl::StrCat("up_blocks.", i), h);
  }
  return conv_out_(at::silu(norm_out_(h)));
}

at::Tensor VaeDecoder::DecodeTiled(const at::Tensor& latents, int64_t tile) const {
  TORCH_CHECK(tile >= 4, "VaeDecoder: tiles of ", tile);
  if (latents.size(2) <= tile && latents.size(3) <= tile) return Decode(latents);
  const int64_t stride = tile - tile / 4;
  const int64_t blended = (tile - stride) * config_.upscaling();
  const int64_t kept = stride * config_.upscaling();
  std::vector<at::Tensor> rows;
  std::vector<at::Tensor> above;  // the tiles of the row above, before they were cut
  for (int64_t y = 0; y < latents.size(2); y += stride) {
    std::vector<at::Tensor> row;
    std::vector<at::Tensor> cut;
    for (int64_t x = 0; x < latents.size(3); x += stride) {
      const at::Tensor part = latents.slice(2, y, std::min(y + tile, latents.size(2)))
                                  .slice(3, x, std::min(x + tile, latents.size(3)));
      at::Tensor picture = Decode(part);
      if (!above.empty()) picture = Blend(above[row.size()], picture, 2, blended);
      if (!row.empty()) picture = Blend(row.back(), picture, 3, blended);
      row.push_back(picture);
      cut.push_back(picture.slice(2, 0, kept).slice(3, 0, kept));
    }
    rows.push_back(at::cat(cut, 3));
    above = std::move(row);
  }
  return at::cat(rows, 2);
}

}  // namespace fedumm::model
