#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/model/image.h"

namespace fedumm::model {

struct PixelDecoderOptions {
  // Of UNet and VAE, whatever dtype the files have. The reference takes bfloat16. The VAE would
  // overflow in float16 and then runs in float32.
  at::ScalarType dtype = at::kBFloat16;
  at::Device device = at::kCPU;
  // The VAE decodes larger latents in tiles of this side; 0: as a whole, whatever memory that
  // takes.
  int64_t vae_tile = 128;
};

struct DenoiseOptions {
  int64_t steps = 50;
  double guidance = 3.0;  // 1: follow the condition alone
  // Called after each step. False stops with CANCELLED. May be null.
  std::function<bool(int64_t done, int64_t in_all)> progress;
  // Called with the latents after each step. May be null.
  std::function<void(int64_t step, const at::Tensor& latents)> watch;
};

// The part of BLIP-3o that turns image tokens into pixels: SDXL's UNet conditioned on the tokens
// and their mean, the Euler scheduler, SDXL's VAE. Immutable and thread-safe.
class PixelDecoder {
 public:
  // Opens a folder "diffusion-decoder" as released: unet/, vae/ and scheduler/, each with its
  // config; all of them are read and what they ask for beyond SDXL is INVALID_ARGUMENT by field.
  // Weights that have the dtype asked for stay in the mapped files.
  static absl::StatusOr<std::unique_ptr<PixelDecoder>> Load(
      const std::string& folder, const PixelDecoderOptions& options = {});
  ~PixelDecoder();

  int64_t token_size() const;                 // channels of an image token
  std::vector<int64_t> latent_shape() const;  // [1, channels, s, s] that the UNet was trained on
  at::Device device() const;

  // Latents from standard normal `noise` [1, channels, h, w], fp32 in and out. `tokens` is [1, n,
  // token_size] of the prompt, or [2, n, token_size] with those of the negative condition second,
  // which guidance needs. The latents stay in fp32 between steps, where the reference rounds them
  // to the network's dtype.
  absl::StatusOr<at::Tensor> Denoise(const at::Tensor& tokens, const at::Tensor& noise,
                                     const DenoiseOptions& options = {}) const;
  // The picture of latents, [1, 3, H, W] with values about in [-1, 1].
  absl::StatusOr<at::Tensor> Decode(const at::Tensor& latents) const;
  // [1, 3, H, W] from -1 to 1 as 8-bit levels.
  static absl::StatusOr<Image> ToImage(const at::Tensor& picture);

 private:
  struct Parts;
  explicit PixelDecoder(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace fedumm::model
