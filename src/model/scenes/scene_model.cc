#include "model/scenes/scene_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "fedumm/model/checkpoint.h"
#include "model/guarded.h"
#include "model/scenes/scene_detector.h"
#include "model/scenes/scene_steps.h"
#include "model/tasks/caption_drawing.h"
#include "model/tasks/prompt_rows.h"

namespace fedumm::model {
namespace {

constexpr int64_t kPicturesAtOnce = 250;
constexpr int64_t kAnswersAtOnce = 256;
constexpr int64_t kDrawingsAtOnce = 128;
constexpr int64_t kMostAnswerTokens = 12;
constexpr int64_t kDrawSteps = 10;
constexpr double kGuidance = 3.0;

absl::StatusOr<PreparedScenes> Prepare(const PromptFormat& format, SceneSet set) {
  PreparedScenes scenes{.set = std::move(set), .sequences = {}, .prompts = {}, .image_tokens = {}};
  for (const SceneAsked& asked : scenes.set.questions) {
    FEDUMM_ASSIGN_OR_RETURN(Sequence sequence,
                            SceneSequence(format, asked.question.text, asked.question.answer));
    scenes.sequences.push_back(std::move(sequence));
  }
  for (const Scene& scene : scenes.set.scenes) {
    FEDUMM_ASSIGN_OR_RETURN(std::vector<int64_t> prompt, format.DrawPrompt(PromptOf(scene).prompt));
    scenes.prompts.push_back(std::move(prompt));
  }
  return scenes;
}

// Continues each sequence after its prompt until it ends. All of them are computed anew for each
// token: they are short, and so are the answers.
absl::StatusOr<std::vector<std::vector<int64_t>>> GreedyAnswers(const UnifiedModel& model,
                                                                std::vector<Sequence> rows,
                                                                const at::Tensor& image_tokens,
                                                                int64_t end_id) {
  std::vector<std::vector<int64_t>> answers(rows.size());
  std::vector<int64_t> open;  // rows whose answer has not ended
  for (int64_t i = 0; i < std::ssize(rows); ++i) {
    Sequence& row = rows[static_cast<size_t>(i)];
    row.ids.resize(static_cast<size_t>(row.num_prompt));
    open.push_back(i);
  }
  for (int64_t step = 0; step < kMostAnswerTokens && !open.empty(); ++step) {
    std::vector<Sequence> asked;
    for (const int64_t i : open) {
      asked.push_back(rows[static_cast<size_t>(i)]);
      asked.back().ids.push_back(end_id);  // the place of the next token; its value is not read
    }
    std::vector<const Sequence*> batch;
    for (const Sequence& one : asked) batch.push_back(&one);
    FEDUMM_ASSIGN_OR_RETURN(
        const at::Tensor logits,
        AnswerLogits(model, AnswerBatch(batch), image_tokens.index_select(0, IndexTensor(open))));
    const at::Tensor best = logits.argmax(-1).contiguous();
    std::vector<int64_t> still_open;
    for (size_t i = 0; i < open.size(); ++i) {
      const int64_t id = best.const_data_ptr<int64_t>()[i];
      if (id == end_id) continue;
      const auto row = static_cast<size_t>(open[i]);
      answers[row].push_back(id);
      rows[row].ids.push_back(id);
      rows[row].num_prompt = std::ssize(rows[row].ids);
      still_open.push_back(open[i]);
    }
    open = std::move(still_open);
  }
  return answers;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SceneModel>> SceneModel::Load(const std::string& model_folder,
                                                             SceneSet train, SceneSet test) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string json,
                          ReadFile(absl::StrCat(model_folder, "/config.json")));
  FEDUMM_ASSIGN_OR_RETURN(const BackboneConfig config, BackboneConfig::FromJson(json));
  if (!config.dit.has_value()) return absl::InvalidArgumentError("the scenes' model has no dit");
  FEDUMM_ASSIGN_OR_RETURN(StateDict weights,
                          LoadStateDict(absl::StrCat(model_folder, "/model.safetensors")));
  FEDUMM_ASSIGN_OR_RETURN(PromptFormat format, LoadSceneFormat(model_folder, config));
  FEDUMM_ASSIGN_OR_RETURN(PixelCodec codec, PixelCodec::TakeFrom(weights, config.dit->in_channels));
  FEDUMM_ASSIGN_OR_RETURN(std::unique_ptr<UnifiedModel> model,
                          UnifiedModel::Create(config, std::move(weights)));
  std::unique_ptr<SceneModel> scenes(
      new SceneModel(std::move(format), std::move(codec), std::move(model)));
  FEDUMM_ASSIGN_OR_RETURN(scenes->train_, Prepare(scenes->format_, std::move(train)));
  FEDUMM_ASSIGN_OR_RETURN(scenes->test_, Prepare(scenes->format_, std::move(test)));
  return scenes;
}

absl::StatusOr<at::Tensor> SceneModel::TokensOf(const PreparedScenes& scenes) const {
  if (!scenes.image_tokens.defined()) {
    const at::NoGradGuard no_grad;
    const at::Tensor pictures = PicturesOver(scenes.set.pixels);
    std::vector<at::Tensor> parts;
    for (int64_t i = 0; i < pictures.size(0); i += kPicturesAtOnce) {
      const int64_t count = std::min(kPicturesAtOnce, pictures.size(0) - i);
      FEDUMM_ASSIGN_OR_RETURN(at::Tensor tokens,
                              EncodePictures(*model_, pictures.narrow(0, i, count)));
      parts.push_back(std::move(tokens));
    }
    scenes.image_tokens = at::cat(parts);
  }
  return scenes.image_tokens;
}

const at::Tensor& SceneModel::TrainLatents() const {
  if (!train_latents_.defined()) {
    const at::NoGradGuard no_grad;
    train_latents_ = codec_.Encode(PicturesOver(train_.set.pixels));
  }
  return train_latents_;
}

absl::StatusOr<std::vector<std::string>> SceneModel::Answer(
    const PreparedScenes& scenes, std::span<const int64_t> questions) const {
  return Guarded([&]() -> absl::StatusOr<std::vector<std::string>> {
    const at::NoGradGuard no_grad;
    FEDUMM_ASSIGN_OR_RETURN(const at::Tensor tokens, TokensOf(scenes));
    std::vector<std::string> texts;
    for (int64_t begin = 0; begin < std::ssize(questions); begin += kAnswersAtOnce) {
      std::vector<Sequence> rows;
      std::vector<int64_t> pictures;
      for (const int64_t i : questions.subspan(
               static_cast<size_t>(begin), static_cast<size_t>(std::min<int64_t>(
                                               kAnswersAtOnce, std::ssize(questions) - begin)))) {
        rows.push_back(scenes.sequences[static_cast<size_t>(i)]);
        pictures.push_back(scenes.set.questions[static_cast<size_t>(i)].picture);
      }
      FEDUMM_ASSIGN_OR_RETURN(
          const auto answers,
          GreedyAnswers(*model_, std::move(rows), tokens.index_select(0, IndexTensor(pictures)),
                        format_.end_id()));
      for (const std::vector<int64_t>& answer : answers) texts.push_back(format_.Decode(answer));
    }
    return texts;
  });
}

absl::StatusOr<std::vector<SceneDrawing>> SceneModel::Draw(const PreparedScenes& scenes,
                                                           std::span<const int64_t> indices,
                                                           uint64_t seed) const {
  return Guarded([&]() -> absl::StatusOr<std::vector<SceneDrawing>> {
    const at::NoGradGuard no_grad;
    const DitConfig& dit = *model_->config().dit;
    Random random(seed);
    std::vector<SceneDrawing> drawings;
    for (int64_t begin = 0; begin < std::ssize(indices); begin += kDrawingsAtOnce) {
      const int64_t count = std::min(kDrawingsAtOnce, std::ssize(indices) - begin);
      const auto part = indices.subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
      std::vector<const std::vector<int64_t>*> prompts;
      for (const int64_t i : part) prompts.push_back(&scenes.prompts[static_cast<size_t>(i)]);
      Batch batch;
      AddPromptRows(prompts, model_->config().n_query, batch);
      const at::Tensor noise =
          Normal(random, {count, dit.in_channels, dit.input_size, dit.input_size});
      const at::Tensor pictures =
          codec_
              .Decode(model_->Sample(
                  HiddenOfPromptRows(*model_, batch), noise,
                  {.steps = kDrawSteps, .guidance = kGuidance, .integer_timesteps = false}))
              .contiguous();
      const uint8_t* pixels = pictures.const_data_ptr<uint8_t>();
      for (const int64_t i : part) {
        SceneDrawing drawing{.prompt = PromptOf(scenes.set.scenes[static_cast<size_t>(i)]),
                             .pixels = {pixels, pixels + kPictureBytes},
                             .verdict = {}};
        pixels += kPictureBytes;
        FEDUMM_ASSIGN_OR_RETURN(drawing.verdict,
                                JudgePicture(drawing.prompt, DetectShapes(drawing.pixels)));
        drawings.push_back(std::move(drawing));
      }
    }
    return drawings;
  });
}

absl::StatusOr<Image> SceneModel::DrawPrompt(const std::string& prompt, uint64_t seed,
                                             const SampleOptions& options) const {
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> ids, format_.DrawPrompt(prompt));
  return DrawPicture({*model_, codec_}, ids, seed, options);
}

}  // namespace fedumm::model
