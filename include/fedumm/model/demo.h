// The demo: a tiny BLIP-3o style model that answers questions about easy-VQA's pictures and draws
// such pictures, and the two tasks that clients train an adapter for.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/easy_vqa.h"
#include "fedumm/model/task.h"

namespace fedumm::model {

struct DemoState;

// Of the tasks of NewVqaTask and NewDrawTask. Flow matching's gradients in the decoder are small
// beside those of the answers.
inline constexpr TaskDefaults kVqaDefaults{.batch_size = 16, .loss_weight = 1};
inline constexpr TaskDefaults kDrawDefaults{.batch_size = 16, .loss_weight = 5};

// What the shipped backbone (configs/tiny) has seen, for reports.
inline constexpr std::string_view kFrozenModelHasSeen =
    "The frozen model was pre-trained on rendered pictures only, on none that a client or the test "
    "set holds: its vision tower saw other forms and many colours, but no triangle and nothing "
    "close to brown, teal or yellow; its decoder read about circles and rectangles in black, blue, "
    "gray, green and red; its drawing branch drew circles, rectangles and triangles in these five "
    "colours, with a pixel codec that was fitted to many colours, none close to the new ones.";

struct DrawOptions {
  int64_t per_prompt = 4;  // pictures of each of the 24 prompts
  int64_t steps = 10;
  double guidance = 3.0;
  uint64_t seed = 0;  // of the noise that they start from
};

struct Drawing {
  Concept wanted;
  Concept seen;  // by Detect
  std::vector<uint8_t> pixels;

  bool right() const { return wanted == seen; }
};

// What all clients share: the frozen backbone, and the pictures, encoded once. Adapters attach to
// model(); answers and drawings are then theirs. As thread-safe as the model: not while an adapter
// changes.
class DemoWorld {
 public:
  // `model_folder` holds config.json, tokenizer.json and model.safetensors; `data` must outlive the
  // world.
  static absl::StatusOr<std::unique_ptr<DemoWorld>> Load(const std::string& model_folder,
                                                         const EasyVqa& data);
  ~DemoWorld();

  UnifiedModel& model();
  const EasyVqa& data() const;

  // One per training example, for a partitioner: the answer to the question, the colour of the
  // picture to draw.
  const std::vector<std::string>& vqa_labels() const;
  const std::vector<std::string>& draw_labels() const;

  // Answering and drawing, trained on the examples `shard` (indices into the labels). Evaluate
  // answers every `stride`th held-out question: vqa-accuracy, vqa-accuracy-new, vqa-accuracy-old
  // (the greedy first token is the answer; with ten equal annotations that is the official VQA
  // accuracy), vqa-num-examples; or draws: draw-accuracy, -new, -old (the share with the right
  // colour and shape; new is a new colour), draw-num-examples. The world must outlive its tasks.
  // INVALID_ARGUMENT for an index out of range. With `balanced_batches` the colours of a drawing
  // shard take turns, so that a colour with a dozen pictures is trained as often as one with
  // hundreds; without, each picture is seen equally often.
  // With `own`, indices into the labels, Evaluate judges these training examples in place of the
  // held-out ones: it asks these questions, and a drawing counts as often as `own` has its prompt.
  absl::StatusOr<std::unique_ptr<Task>> NewVqaTask(
      std::vector<int64_t> shard, int64_t stride = 1,
      std::optional<std::vector<int64_t>> own = std::nullopt);
  absl::StatusOr<std::unique_ptr<Task>> NewDrawTask(
      std::vector<int64_t> shard, DrawOptions options = {}, bool balanced_batches = true,
      std::optional<std::vector<int64_t>> own = std::nullopt);

  // The answers to the test questions `questions` (indices into data().test.questions).
  absl::StatusOr<std::vector<std::string>> Answer(std::span<const int64_t> questions) const;
  // All prompts, `per_prompt` drawings after another.
  absl::StatusOr<std::vector<Drawing>> Draw(const DrawOptions& options) const;

 private:
  explicit DemoWorld(std::unique_ptr<DemoState> state);
  std::unique_ptr<DemoState> state_;
};

// How the backbone is pre-trained: AdamW with betas 0.9 and 0.98, cosine decay, gradients clipped
// to norm 1, one batch size.
//
// Every picture is rendered for it in easy-VQA's style; no picture, question or drawing of the
// clients or of the test set is used. What the frozen model has seen: in its vision tower shapes of
// ten forms (no triangle) in many colours, but none close to brown, teal or yellow; in its decoder
// questions and captions about circles and rectangles in five old colours; in its drawing branch
// circles, rectangles and triangles in these five colours; in its pixel codec these shapes in many
// colours, again none close to the new ones.
struct PretrainStage {
  int64_t steps = 0;
  int64_t warmup_steps = 0;
  double learning_rate = 0;
  double weight_decay = 0;
};

struct PretrainOptions {
  uint64_t seed = 0;
  int64_t batch_size = 0;
  int64_t pictures = 0;  // rendered for the decoder, and as many for each of codec and drawing
  // The tower learns to tell forms and colour channels on pictures that are rendered for each step
  // (the place of a released model's CLIP), then is frozen; its tokens are scaled to
  // `image_token_std`, the size of word embeddings.
  PretrainStage vision;
  double image_token_std = 0;
  // The decoder learns to answer questions on old concepts: this share of yes-or-no questions, this
  // of captions, the rest asks "what".
  PretrainStage language;
  double yes_no_share = 0;
  double caption_share = 0;
  // Latent queries and DiT learn to draw the three shapes in old colours, without the prompt in
  // this share of the examples.
  PretrainStage drawing;
  double prompt_dropout = 0;

  // Every field is required.
  static absl::StatusOr<PretrainOptions> FromToml(std::string_view text);
};

struct PretrainProgress {
  std::string_view stage;  // "vision", "language", "drawing"
  int64_t step;            // of `steps`
  int64_t steps;
  double loss;  // a running mean
};

// Trains a model of `folder`'s config.json and tokenizer.json from scratch by its pretrain.toml and
// writes model.safetensors there: the backbone, the pixel codec ("pixel_codec.*"), and as metadata
// the recipe and its SHA-256. Equal recipes give equal bits on equal machines with one LibTorch
// thread. Calls `progress` every 50 steps.
absl::Status Pretrain(const std::string& folder,
                      const std::function<void(const PretrainProgress&)>& progress);

}  // namespace fedumm::model
