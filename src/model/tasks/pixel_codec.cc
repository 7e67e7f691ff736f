#include "model/tasks/pixel_codec.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/sign.h>
#include <ATen/ops/sqrt.h>

#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace fedumm::model {
namespace {

constexpr int64_t kPatch = 8;
constexpr int64_t kGrid = PixelCodec::kSize / kPatch;
constexpr int64_t kPatchValues = kPatch * kPatch * 3;
constexpr int64_t kEncodedTogether = 256;

// uint8 [n, 64, 64, 3] -> [n * 64, 192] in [-1, 1]
at::Tensor PatchesOf(const at::Tensor& pictures) {
  return (pictures.to(at::kFloat) / 127.5 - 1)
      .reshape({-1, kGrid, kPatch, kGrid, kPatch, 3})
      .permute({0, 1, 3, 2, 4, 5})
      .reshape({-1, kPatchValues});
}

absl::StatusOr<at::Tensor> Take(StateDict& state, const std::string& name, at::IntArrayRef shape) {
  const auto node = state.extract(name);
  if (node.empty()) return absl::InvalidArgumentError(absl::StrCat("tensor is missing: ", name));
  if (node.mapped().sizes() != shape || node.mapped().scalar_type() != at::kFloat) {
    return absl::InvalidArgumentError(absl::StrCat("tensor has another shape or dtype: ", name));
  }
  return node.mapped();
}

}  // namespace

PixelCodec PixelCodec::Fit(const at::Tensor& pictures, int64_t channels) {
  const at::Tensor patches = PatchesOf(pictures).to(at::kDouble);
  const at::Tensor mean = patches.mean(0);
  const at::Tensor centred = patches - mean;
  const at::Tensor covariance =
      at::matmul(centred.t(), centred) / static_cast<double>(patches.size(0));
  const auto [values, vectors] = at::linalg_eigh(covariance);  // ascending
  at::Tensor basis = vectors.narrow(1, kPatchValues - channels, channels).t().flip(0);
  // A component's sign is arbitrary; its largest element is made positive.
  basis = basis * basis.gather(1, basis.abs().argmax(1, /*keepdim=*/true)).sign();
  const at::Tensor variance =
      values.narrow(0, kPatchValues - channels, channels).flip(0).clamp_min(1e-6);

  PixelCodec codec;
  codec.mean_ = mean.to(at::kFloat);
  codec.basis_ = basis.to(at::kFloat).contiguous();
  codec.scale_ = (variance.pow(0.25) * variance.mean().pow(0.25)).to(at::kFloat);
  return codec;
}

absl::StatusOr<PixelCodec> PixelCodec::TakeFrom(StateDict& state, int64_t channels) {
  PixelCodec codec;
  FEDUMM_ASSIGN_OR_RETURN(codec.mean_, Take(state, "pixel_codec.mean", {kPatchValues}));
  FEDUMM_ASSIGN_OR_RETURN(codec.basis_, Take(state, "pixel_codec.basis", {channels, kPatchValues}));
  FEDUMM_ASSIGN_OR_RETURN(codec.scale_, Take(state, "pixel_codec.scale", {channels}));
  return codec;
}

void PixelCodec::AddTo(StateDict& state) const {
  state["pixel_codec.mean"] = mean_;
  state["pixel_codec.basis"] = basis_;
  state["pixel_codec.scale"] = scale_;
}

at::Tensor PixelCodec::Encode(const at::Tensor& pictures) const {
  // A few at a time: as floats, in patches and centred they take 12 times the memory of the bytes.
  std::vector<at::Tensor> parts;
  for (const at::Tensor& part : pictures.split(kEncodedTogether)) {
    const at::Tensor latents = at::matmul(PatchesOf(part) - mean_, basis_.t()) / scale_;
    parts.push_back(latents.reshape({-1, kGrid, kGrid, scale_.size(0)}).permute({0, 3, 1, 2}));
  }
  return at::cat(parts).contiguous();
}

at::Tensor PixelCodec::Decode(const at::Tensor& latents) const {
  const at::Tensor rows = latents.permute({0, 2, 3, 1}).reshape({-1, scale_.size(0)});
  return ((at::matmul(rows * scale_, basis_) + mean_ + 1) * 127.5)
      .clamp(0, 255)
      .round()
      .to(at::kByte)
      .reshape({-1, kGrid, kGrid, kPatch, kPatch, 3})
      .permute({0, 1, 3, 2, 4, 5})
      .reshape({-1, PixelCodec::kSize, PixelCodec::kSize, 3});
}

}  // namespace fedumm::model
