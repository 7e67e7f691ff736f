#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/diffusion/layers.h"
#include "model/diffusion/weights.h"

namespace fedumm::model {

// The fields of vae/config.json that its decoder needs.
struct VaeConfig {
  int64_t latent_channels = 0;
  int64_t out_channels = 0;
  std::vector<int64_t> block_out_channels;  // the picture's side first
  int64_t layers_per_block = 0;
  int64_t norm_num_groups = 0;
  double scaling_factor = 0;  // the UNet's latents are these times the VAE's own
  bool post_quant_conv = true;

  int64_t upscaling() const { return int64_t{1} << (block_out_channels.size() - 1); }
  // INVALID_ARGUMENT, naming the field, for what is not AutoencoderKL as SDXL has it.
  static absl::StatusOr<VaeConfig> FromJson(std::string_view json, const std::string& where);
};

// The decoder of an AutoencoderKL. Thread-safe.
class VaeDecoder {
 public:
  static absl::StatusOr<VaeDecoder> Create(const VaeConfig& config, PartWeights weights);

  // The VAE's own latents [B, latent_channels, h, w] -> pictures [B, out_channels, h * upscaling,
  // w * upscaling] with values about in [-1, 1], in the weights' dtype.
  at::Tensor Decode(const at::Tensor& latents, BlockTrace* trace = nullptr) const;
  // The same in tiles of at most `tile` latents a side, which overlap by a quarter and are blended
  // linearly there, as diffusers' enable_vae_tiling: memory follows the tile. Each tile is
  // normalised by itself, so tones differ a little from Decode's.
  at::Tensor DecodeTiled(const at::Tensor& latents, int64_t tile) const;
  const VaeConfig& config() const { return config_; }
  at::ScalarType dtype() const { return conv_in_.weight.scalar_type(); }

 private:
  struct Attention {
    GroupNorm norm;
    Linear q;
    Linear k;
    Linear v;
    Linear out;
    at::Tensor operator()(const at::Tensor& x) const;
  };
  struct Block {
    std::vector<ResnetBlock> resnets;
    std::optional<Convolution> upsampling;
  };

  explicit VaeDecoder(VaeConfig config) : config_(std::move(config)) {}
  void TakeAll(PartWeights& weights);

  VaeConfig config_;
  std::optional<Convolution> post_quant_;
  Convolution conv_in_;
  ResnetBlock mid_in_;
  Attention mid_attention_;
  ResnetBlock mid_out_;
  std::vector<Block> up_;
  GroupNorm norm_out_;
  Convolution conv_out_;
};

}  // namespace fedumm::model
