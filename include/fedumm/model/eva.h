// The encoder that makes the targets of drawing: EVA-CLIP E/14+, as BLIP3o trains with it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/model/image.h"

namespace fedumm::model {

struct EvaOptions {
  int64_t num_heads = 0;  // 0: heads of 112 channels, as the released encoder has
  int64_t pooling = 4;    // tokens on a side whose mean is one latent: 32x32 tokens give 8x8
  std::optional<at::ScalarType> dtype;  // of the weights; unset: the file's
};

// A vision transformer with norms after each part, learned positions and no final norm. Its sizes
// are those of its tensors. Thread-safe.
class EvaEncoder {
 public:
  // Intermediate values, for those who compare them.
  struct Trace {
    at::Tensor embedded;             // [B, 1 + tokens, width]
    std::vector<at::Tensor> blocks;  // each block's output
    at::Tensor tokens;               // without the class token
  };

  // Reads a safetensors file, or a folder with model.safetensors or its shards. Names may have any
  // prefix before "cls_token", "pos_embed", "patch_embed.", "blocks.": the encoder alone, or within
  // a training checkpoint. INVALID_ARGUMENT, naming what is wrong, for other tensors, for sizes
  // that do not fit each other, and for PyTorch's pickles (.bin, .pt), which are not read:
  //
  //   python3 -c "import sys, torch; from safetensors.torch import save_file
  //   save_file(torch.load(sys.argv[1], weights_only=True), sys.argv[2])" pytorch_model.bin
  //   eva.safetensors
  static absl::StatusOr<std::unique_ptr<EvaEncoder>> Load(const std::string& path,
                                                          const EvaOptions& options = {});
  ~EvaEncoder();

  // Names the weights, by a hash of the start of each tensor in the dtype that is computed in, and
  // what is made with them. It does not depend on what the file is called.
  const std::string& id() const;
  int64_t image_size() const;  // pixels on a side: 448
  int64_t width() const;       // channels of a latent: 1792
  int64_t grid() const;        // latents on a side: 8

  // [B, 3, image_size, image_size] of EvaPixels -> [B, width, grid, grid].
  at::Tensor Encode(const at::Tensor& pixels, Trace* trace = nullptr) const;

 private:
  struct Modules;
  explicit EvaEncoder(std::unique_ptr<Modules> modules);
  std::unique_ptr<Modules> modules_;
};

// The middle of the picture, resized to `size` and normalised as CLIP does: fp32 [3, size, size].
absl::StatusOr<at::Tensor> EvaPixels(const Image& image, int64_t size);

}  // namespace fedumm::model
