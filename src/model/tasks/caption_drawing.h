// Drawing from captions, on a checkpoint that has a DiT and a pixel codec.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/image.h"
#include "fedumm/model/task.h"
#include "fedumm/model/vqa_folder.h"
#include "model/tasks/pixel_codec.h"
#include "model/tasks/prompt_format.h"

namespace fedumm::model {

// Of NewCaptionDrawingTask. Flow matching's gradients in the decoder are small beside those of
// answers.
inline constexpr TaskDefaults kCaptionDrawingDefaults{.batch_size = 16, .loss_weight = 5};

// The model's input for each caption. INVALID_ARGUMENT, naming the picture, for a text that
// PromptFormat refuses.
absl::StatusOr<std::vector<std::vector<int64_t>>> TokenizeCaptions(
    const PromptFormat& format, std::span<const PictureCaption> captions);

// Captions with their pictures. The parts outlive it.
struct CaptionSource {
  const VqaFolder& folder;
  const std::vector<std::vector<int64_t>>& prompts;  // one for each caption
};

// What draws. The parts outlive it.
struct Drawer {
  const UnifiedModel& model;
  const PixelCodec& codec;
};

// The task "draw": trains on the captions of `shard`, indices into `train`. Evaluate takes the
// captions `judged`, indices into `test`, and measures how often the model explains the picture
// better (with a lower flow matching loss) by its own caption than by another one: "draw-accuracy",
// 0.5 by chance, and "draw-num-examples". The arguments outlive the task.
std::unique_ptr<Task> NewCaptionDrawingTask(Drawer drawer, const ImageReadOptions& reading,
                                            int threads, CaptionSource train,
                                            std::vector<int64_t> shard, CaptionSource test,
                                            std::vector<int64_t> judged);

// One picture for a caption; equal seeds give equal noise.
absl::StatusOr<Image> DrawPicture(Drawer drawer, std::span<const int64_t> prompt, uint64_t seed,
                                  const SampleOptions& options);

}  // namespace fedumm::model
