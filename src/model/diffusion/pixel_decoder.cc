#include "fedumm/model/pixel_decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "model/diffusion/euler.h"
#include "model/diffusion/unet.h"
#include "model/diffusion/vae.h"
#include "model/guarded.h"

namespace fedumm::model {
namespace {

constexpr int64_t kMaxConfigBytes = int64_t{1} << 20;
// Original size, crop and target size that the reference tells the UNet, whatever it draws.
constexpr double kTimeIds[] = {1024, 1024, 0, 0, 1024, 1024};

template <typename Config>
auto ReadConfig(const std::string& path) -> decltype(Config::FromJson("", path)) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string json, ReadFile(path, kMaxConfigBytes));
  return Config::FromJson(json, path);
}

}  // namespace

struct PixelDecoder::Parts {
  UNet unet;
  VaeDecoder vae;
  EulerScheduler scheduler;
  PixelDecoderOptions options;
  at::Tensor time_ids;  // [1, 6]
};

PixelDecoder::PixelDecoder(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
PixelDecoder::~PixelDecoder() = default;

absl::StatusOr<std::unique_ptr<PixelDecoder>> PixelDecoder::Load(
    const std::string& folder, const PixelDecoderOptions& options) {
  if (!at::isFloatingType(options.dtype) || options.vae_tile < 0 ||
      (options.vae_tile > 0 && options.vae_tile < 4)) {
    return absl::InvalidArgumentError(
        absl::StrCat("pixel decoder: dtype ", c10::toString(options.dtype), ", tiles of ",
                     options.vae_tile, " latents (0, or 4 and more)"));
  }
  return Guarded([&]() -> absl::StatusOr<std::unique_ptr<PixelDecoder>> {
    FEDUMM_ASSIGN_OR_RETURN(
        EulerScheduler scheduler,
        ReadConfig<EulerScheduler>(folder + "/scheduler/scheduler_config.json"));
    FEDUMM_ASSIGN_OR_RETURN(const UNetConfig unet_config,
                            ReadConfig<UNetConfig>(folder + "/unet/config.json"));
    FEDUMM_ASSIGN_OR_RETURN(const VaeConfig vae_config,
                            ReadConfig<VaeConfig>(folder + "/vae/config.json"));
    if (unet_config.in_channels != vae_config.latent_channels ||
        unet_config.out_channels != vae_config.latent_channels) {
      return absl::InvalidArgumentError(absl::StrCat(
          folder, ": the UNet goes from ", unet_config.in_channels, " to ",
          unet_config.out_channels, " channels, the VAE has ", vae_config.latent_channels));
    }
    FEDUMM_ASSIGN_OR_RETURN(PartWeights unet_weights,
                            PartWeights::Open(folder + "/unet", options.dtype, options.device));
    FEDUMM_ASSIGN_OR_RETURN(UNet unet, UNet::Create(unet_config, std::move(unet_weights)));
    const at::ScalarType vae_dtype = options.dtype == at::kHalf ? at::kFloat : options.dtype;
    FEDUMM_ASSIGN_OR_RETURN(PartWeights vae_weights,
                            PartWeights::Open(folder + "/vae", vae_dtype, options.device));
    FEDUMM_ASSIGN_OR_RETURN(VaeDecoder vae, VaeDecoder::Create(vae_config, std::move(vae_weights)));
    if (unet.config().added_embedding_in - 6 * unet.config().addition_time_embed_dim !=
        unet.config().cross_attention_dim) {
      return absl::InvalidArgumentError(
          absl::StrCat(folder, "/unet/config.json: projection_class_embeddings_input_dim is ",
                       unet.config().added_embedding_in,
                       ", not cross_attention_dim and 6 times addition_time_embed_dim: the mean of "
                       "the image tokens is what it takes"));
    }
    const at::Tensor time_ids =
        at::tensor(at::ArrayRef<double>(kTimeIds), at::kFloat).unsqueeze(0).to(options.device);
    return std::unique_ptr<PixelDecoder>(new PixelDecoder(std::make_unique<Parts>(
        Parts{std::move(unet), std::move(vae), std::move(scheduler), options, time_ids})));
  });
}

int64_t PixelDecoder::token_size() const { return parts_->unet.config().cross_attention_dim; }

std::vector<int64_t> PixelDecoder::latent_shape() const {
  const UNetConfig& config = parts_->unet.config();
  return {1, config.in_channels, config.sample_size, config.sample_size};
}

at::Device PixelDecoder::device() const { return parts_->options.device; }

absl::StatusOr<at::Tensor> PixelDecoder::Denoise(const at::Tensor& tokens, const at::Tensor& noise,
                                                 const DenoiseOptions& options) const {
  const bool guided = options.guidance != 1.0;
  if (tokens.dim() != 3 || tokens.size(2) != token_size() || tokens.size(1) == 0 ||
      tokens.size(0) != (guided ? 2 : 1)) {
    return absl::InvalidArgumentError(absl::StrCat("Denoise: guidance ", options.guidance,
                                                   " takes image tokens [", guided ? 2 : 1, ", n, ",
                                                   token_size(), "], of the prompt first"));
  }
  FEDUMM_ASSIGN_OR_RETURN(const EulerSteps steps, parts_->scheduler.Steps(options.steps));
  return Guarded([&]() -> absl::StatusOr<at::Tensor> {
    const at::NoGradGuard no_grad;
    const at::Tensor condition = tokens.to(device());
    // The mean in fp32, as the tokens are; the network casts it.
    const at::Tensor pooled = at::mean(condition, 1);
    const at::Tensor time_ids = parts_->time_ids.expand({condition.size(0), -1});
    at::Tensor x = noise.to(device(), at::kFloat) * static_cast<double>(steps.init_noise_sigma);
    for (int64_t i = 0; i < options.steps; ++i) {
      const float sigma = steps.sigmas[static_cast<size_t>(i)];
      const float next = steps.sigmas[static_cast<size_t>(i + 1)];
      const at::Tensor scaled = x / std::sqrt(sigma * sigma + 1);
      const at::Tensor t =
          at::full({condition.size(0)}, steps.timesteps[static_cast<size_t>(i)], x.options());
      at::Tensor prediction =
          parts_->unet
              .Run(guided ? at::cat({scaled, scaled}) : scaled, t, condition, pooled, time_ids)
              .to(at::kFloat);
      if (guided) {  // the prompt's half comes first, other than in the DiT
        const std::vector<at::Tensor> halves = prediction.chunk(2);
        prediction = halves[1] + options.guidance * (halves[0] - halves[1]);
      }
      x = x + prediction * static_cast<double>(next - sigma);
      if (options.watch != nullptr) options.watch(i, x);
      if (options.progress != nullptr && !options.progress(i + 1, options.steps)) {
        return absl::CancelledError("stopped while drawing");
      }
    }
    return x;
  });
}

absl::StatusOr<at::Tensor> PixelDecoder::Decode(const at::Tensor& latents) const {
  return Guarded([&]() -> absl::StatusOr<at::Tensor> {
    const at::NoGradGuard no_grad;
    const VaeDecoder& vae = parts_->vae;
    const at::Tensor own = latents.to(device(), vae.dtype()) / vae.config().scaling_factor;
    const int64_t tile = parts_->options.vae_tile;
    return tile > 0 ? vae.DecodeTiled(own, tile) : vae.Decode(own);
  });
}

absl::StatusOr<Image> PixelDecoder::ToImage(const at::Tensor& picture) {
  return Guarded([&]() -> absl::StatusOr<Image> {
    if (picture.dim() != 4 || picture.size(0) != 1 || picture.size(1) != 3) {
      return absl::InvalidArgumentError("ToImage: not a picture of shape [1, 3, H, W]");
    }
    const at::Tensor shares = (picture / 2 + 0.5).clamp(0, 1).to(at::kFloat);
    if (!shares.isfinite().all().item<bool>()) {
      return absl::InternalError(
          "the picture holds values that are not numbers: float16 overflows, or weights are bad");
    }
    const at::Tensor levels =
        (shares * 255).round().to(at::kCPU, at::kByte).select(0, 0).permute({1, 2, 0}).contiguous();
    const uint8_t* const bytes = levels.const_data_ptr<uint8_t>();
    return Image{.width = levels.size(1),
                 .height = levels.size(0),
                 .pixels = std::vector<uint8_t>(bytes, bytes + levels.numel())};
  });
}

}  // namespace fedumm::model
