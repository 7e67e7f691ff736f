// Converts pictures to the DiT's latents and back: principal components of 8x8 patches.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "fedumm/model/backbone.h"

namespace fedumm::model {

// Thread-safe. Pictures are uint8 [n, 64, 64, 3], latents fp32 [n, channels, 8, 8].
class PixelCodec {
 public:
  static constexpr int64_t kSize = 64;  // of a picture, in pixels on a side

  // The principal components of the patches of `pictures`. Each channel is divided by the square
  // root of its standard deviation: division by the standard deviation itself would give small
  // components the same weight as large ones and makes the edges of drawings ragged.
  static PixelCodec Fit(const at::Tensor& pictures, int64_t channels);
  // Removes the tensors "pixel_codec.*" from `state`; what remains belongs to the backbone.
  // INVALID_ARGUMENT if one is missing or has another shape or dtype.
  static absl::StatusOr<PixelCodec> TakeFrom(StateDict& state, int64_t channels);
  void AddTo(StateDict& state) const;

  at::Tensor Encode(const at::Tensor& pictures) const;
  at::Tensor Decode(const at::Tensor& latents) const;

 private:
  at::Tensor mean_;   // [192]
  at::Tensor basis_;  // [channels, 192], orthonormal rows
  at::Tensor scale_;  // [channels]
};

}  // namespace fedumm::model
