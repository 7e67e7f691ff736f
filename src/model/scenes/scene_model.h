// A small model with rendered scenes around it, and the tasks that clients train an adapter for.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/geneval.h"
#include "fedumm/model/image.h"
#include "fedumm/model/task.h"
#include "model/demo/vocabulary.h"
#include "model/scenes/scene_set.h"
#include "model/tasks/batches.h"
#include "model/tasks/pixel_codec.h"
#include "model/tasks/prompt_format.h"

namespace fedumm::model {

// Of the tasks below. Flow matching's gradients in the decoder are small beside those of answers.
inline constexpr TaskDefaults kSceneVqaDefaults{.batch_size = 16, .loss_weight = 1};
inline constexpr TaskDefaults kSceneDrawDefaults{.batch_size = 16, .loss_weight = 5};

// A training or held-out set, ready for the model.
struct PreparedScenes {
  SceneSet set;
  std::vector<Sequence> sequences;            // of the questions
  std::vector<std::vector<int64_t>> prompts;  // to draw, of the scenes
  // [scenes, kImageTokens, hidden], once they were needed. One thread at a time, as the model.
  mutable at::Tensor image_tokens;
};

struct SceneDrawing {
  GenevalPrompt prompt;
  std::vector<uint8_t> pixels;  // kPictureBytes
  GenevalVerdict verdict;       // of the official rules on what DetectShapes finds
};

// Thread rule as of UnifiedModel: not while an adapter changes.
class SceneModel {
 public:
  // `model_folder` holds config.json, tokenizer.json and model.safetensors.
  static absl::StatusOr<std::unique_ptr<SceneModel>> Load(const std::string& model_folder,
                                                          SceneSet train, SceneSet test);

  UnifiedModel& model() const { return *model_; }
  const PreparedScenes& train() const { return train_; }
  const PreparedScenes& test() const { return test_; }

  // The image tokens of a set's pictures; encoded at the first call.
  absl::StatusOr<at::Tensor> TokensOf(const PreparedScenes& scenes) const;
  // The DiT's latents of the training pictures; encoded at the first call.
  const at::Tensor& TrainLatents() const;
  // The greedy answers to `questions`, indices into the set's.
  absl::StatusOr<std::vector<std::string>> Answer(const PreparedScenes& scenes,
                                                  std::span<const int64_t> questions) const;
  // Draws the prompts of `indices` into the set's scenes, and judges the drawings.
  absl::StatusOr<std::vector<SceneDrawing>> Draw(const PreparedScenes& scenes,
                                                 std::span<const int64_t> indices,
                                                 uint64_t seed) const;
  // One picture of any prompt in the model's vocabulary.
  absl::StatusOr<Image> DrawPrompt(const std::string& prompt, uint64_t seed,
                                   const SampleOptions& options) const;

  // The task "vqa": trains on `shard`, indices into train().set.questions; Evaluate answers the
  // questions `judged` of `scenes` and gives the official VQA accuracy: "vqa-accuracy",
  // "vqa-accuracy-new", "vqa-accuracy-<type>" and "vqa-num-examples", which alone is there where
  // nothing is judged. The model must outlive the tasks.
  std::unique_ptr<Task> NewVqaTask(std::vector<int64_t> shard, const PreparedScenes& scenes,
                                   std::vector<int64_t> judged) const;
  // The task "draw": trains on the scenes `shard`. Evaluate draws the prompts of the scenes
  // `judged` and gives GenEval's scores: "draw-<tag>" for each tag there is, their mean
  // "draw-overall", and "draw-num-examples". With GroupOrder::kTakeTurns the tags take turns in
  // training.
  std::unique_ptr<Task> NewDrawTask(std::vector<int64_t> shard, GroupOrder tags,
                                    const PreparedScenes& scenes,
                                    std::vector<int64_t> judged) const;

 private:
  SceneModel(PromptFormat format, PixelCodec codec, std::unique_ptr<UnifiedModel> model)
      : format_(std::move(format)), codec_(std::move(codec)), model_(std::move(model)) {}

  PromptFormat format_;
  PixelCodec codec_;
  std::unique_ptr<UnifiedModel> model_;
  PreparedScenes train_;
  PreparedScenes test_;
  mutable at::Tensor train_latents_;
};

}  // namespace fedumm::model
