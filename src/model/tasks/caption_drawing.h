// Drawing from captions, on a checkpoint that has a DiT.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/image.h"
#include "fedumm/model/latents.h"
#include "fedumm/model/task.h"
#include "fedumm/model/vqa_folder.h"
#include "model/tasks/pixel_codec.h"
#include "model/tasks/prompt_format.h"

namespace fedumm::model {

// Of NewCaptionDrawingTask. Flow matching's gradients in the decoder are small beside those of
// answers.
inline constexpr TaskDefaults kCaptionDrawingDefaults{.batch_size = 16, .loss_weight = 5};

// The model's input for each caption in the form of training; with `n_query` latent queries after
// it, it has at most 512 tokens, as BLIP3o's. INVALID_ARGUMENT, naming the picture, for a text that
// PromptFormat refuses.
absl::StatusOr<std::vector<std::vector<int64_t>>> TokenizeCaptions(
    const PromptFormat& format, int64_t n_query, std::span<const PictureCaption> captions);

// Captions with their pictures. The parts outlive it.
struct CaptionSource {
  const VqaFolder& folder;
  const std::vector<std::vector<int64_t>>& prompts;  // one for each caption
};

// Where the latents of pictures come from. Thread-safe.
class LatentSource {
 public:
  virtual ~LatentSource() = default;
  // The latents of the pictures with these ids, fp32 [n, channels, side, side] in host memory.
  // Errors name the picture.
  virtual absl::StatusOr<at::Tensor> Load(const VqaFolder& folder,
                                          std::span<const int64_t> images) const = 0;
};
// From the files of the pictures. The codec outlives it.
std::unique_ptr<LatentSource> NewCodecLatents(const PixelCodec& codec,
                                              const ImageReadOptions& reading, int threads);
// From what `fedumm encode` wrote, by the pictures' paths: a name fits a path that ends with it,
// and the longest one counts. Where subsets hold pictures of one name, encode the folder above
// them. The folder of latents outlives it.
std::unique_ptr<LatentSource> NewStoredLatents(const LatentFolder& latents);

// The task "draw": trains on the captions of `shard`, indices into `train`. Evaluate takes the
// captions `judged`, indices into `test`, and measures how often the model explains the picture
// better (with a lower flow matching loss) by its own caption than by another one: "draw-accuracy",
// 0.5 by chance, and "draw-num-examples", which alone is there where nothing is judged. Prompts of
// one batch are padded on the right; `batches_by_length` is as in Batches::SortByLength. The
// arguments outlive the task.
std::unique_ptr<Task> NewCaptionDrawingTask(const UnifiedModel& model,
                                            std::unique_ptr<LatentSource> latents,
                                            CaptionSource train, std::vector<int64_t> shard,
                                            CaptionSource test, std::vector<int64_t> judged,
                                            int64_t batches_by_length = 1);

// What draws. The parts outlive it.
struct Drawer {
  const UnifiedModel& model;
  const PixelCodec& codec;
};

// One picture for a caption; equal seeds give equal noise.
absl::StatusOr<Image> DrawPicture(Drawer drawer, std::span<const int64_t> prompt, uint64_t seed,
                                  const SampleOptions& options);

}  // namespace fedumm::model
