// Pictures as the DiT's latents and back: principal components of their 8x8 patches.
#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "fedumm/model/backbone.h"

namespace fedumm::model {

// Thread-safe. Pictures are uint8 [n, 64, 64, 3], latents fp32 [n, channels, 8, 8].
class PixelCodec {
 public:
  // The principal components of `pictures`' patches. Each channel is divided by the root of its
  // standard deviation: dividing by all of it would give the small components the weight of the
  // large ones, and drawings ragged edges.
  static PixelCodec Fit(const at::Tensor& pictures, int64_t channels);
  // Takes the tensors "pixel_codec.*" out of `state`, so that the rest is the backbone's.
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
