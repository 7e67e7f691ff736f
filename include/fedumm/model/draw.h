#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/image.h"
#include "fedumm/model/pixel_decoder.h"
#include "fedumm/model/tokenizer.h"

namespace fedumm::model {

struct DrawOptions {
  int64_t steps = 50;     // of the pixel decoder
  double guidance = 3.0;  // of the pixel decoder; 1: no negative condition
  SampleOptions flow;     // from the decoder's hidden states to image tokens
  // Called after each step of either network, with the steps of this drawing. False stops with
  // CANCELLED. May be null.
  std::function<bool(int64_t done, int64_t in_all)> progress;
};

// The whole way from a prompt to a picture, as BLIP-3o's inference goes it: the prompt in the chat
// template, the decoder's answer to the latent queries, a flow sample of image tokens, pixels.
//
// The pixel decoder's negative condition is one flow sample for the text " " (without a template).
// It is drawn with the first picture and kept for all later ones. The order of the random numbers
// is: the prompt's noise, the negative condition's (once), the pixels'. They come from fedumm's own
// generator, so a seed gives the same picture on every machine, but not the reference's.
//
// Not thread-safe. Model and pixel decoder are borrowed and must outlive it.
class Painter {
 public:
  // `pixels` may be null: then Draw is FAILED_PRECONDITION. INVALID_ARGUMENT if the model draws no
  // image tokens, the tokenizer lacks "[IMG]", or the decoder takes tokens of another size.
  static absl::StatusOr<std::unique_ptr<Painter>> Create(const UnifiedModel& model,
                                                         const PixelDecoder* pixels,
                                                         Tokenizer tokenizer);
  ~Painter();

  // Restarts the random numbers. A new Painter has seed 0.
  void Seed(uint64_t seed);
  // The image tokens of a caption, [1, n_query, channels] in fp32.
  absl::StatusOr<at::Tensor> Tokens(const std::string& caption, const DrawOptions& options);
  absl::StatusOr<Image> Draw(const std::string& caption, const DrawOptions& options);
  // Takes the random numbers of one drawing without drawing: what follows is then the same as after
  // it. Draws the negative condition if it is not there yet.
  absl::Status Skip(const DrawOptions& options);
  // Draws the negative condition that a Painter of this seed would have after its first picture;
  // the random numbers are then where they were.
  absl::Status PrepareNegative(uint64_t seed, const DrawOptions& options);
  void ForgetNegative();

 private:
  class Impl;
  explicit Painter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The flow's settings for a checkpoint folder: the shift of its scheduler/scheduler_config.json,
// where there is one.
absl::StatusOr<SampleOptions> FlowOptionsOf(const std::string& checkpoint_folder);

}  // namespace fedumm::model
