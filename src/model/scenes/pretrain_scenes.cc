#include "model/scenes/pretrain_scenes.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "fedumm/model/demo.h"
#include "model/guarded.h"
#include "model/scenes/scene.h"
#include "model/scenes/scene_renderer.h"
#include "model/scenes/scene_steps.h"
#include "model/tasks/pixel_codec.h"

namespace fedumm::model {
namespace {

constexpr int64_t kColorLevels = 5;  // of each colour channel, for the tower's head
constexpr int64_t kCellsOnASide = 4;
constexpr int64_t kFormClasses = kNumForms + 1;  // the last one: no form

int DistanceOf(Rgb a, Rgb b) {
  int sum = 0;
  for (size_t i = 0; i < 3; ++i) sum += std::abs(a[i] - b[i]);
  return sum;
}

// A random colour that differs clearly from the background and from each of the new colours.
Rgb RandomRgb(Random& random) {
  constexpr int kLeastFromNew = 110, kLeastFromBackground = 150;
  while (true) {
    Rgb color;
    for (uint8_t& channel : color) channel = static_cast<uint8_t>(random.Below(256));
    bool apart = DistanceOf(color, {245, 245, 245}) >= kLeastFromBackground;
    for (int i = 0; i < static_cast<int>(kSceneColors.size()); ++i) {
      if (IsNewSceneColor(i) &&
          DistanceOf(color, kScenePalette[static_cast<size_t>(i)]) < kLeastFromNew) {
        apart = false;
      }
    }
    if (apart) return color;
  }
}

SceneTag RandomTag(Random& random) {
  return static_cast<SceneTag>(random.Below(kSceneTags.size()));
}

class ScenePretraining {
 public:
  ScenePretraining(const PretrainOptions& options, const PromptFormat& format, UnifiedModel& model,
                   const PretrainProgressFn& progress)
      : options_(options),
        format_(format),
        model_(model),
        progress_(progress),
        random_(options.seed, {1}) {}

  absl::Status Vision();
  absl::Status Language();
  absl::StatusOr<PixelCodec> Drawing();

 private:
  // A scene's places with forms and colours of the tower's own in half of them.
  std::vector<PlacedForm> TowerForms();
  // Scenes of old shapes and colours, for questions: sets scenes_ and tokens_.
  absl::Status RenderForLanguage();
  absl::StatusOr<at::Tensor> AnswersLoss(int64_t batch_size);
  absl::StatusOr<Sequence> Sentence(const Scene& shown);

  const PretrainOptions& options_;
  const PromptFormat& format_;
  UnifiedModel& model_;
  const PretrainProgressFn& progress_;
  Random random_;
  std::vector<Scene> scenes_;
  at::Tensor tokens_;  // of the scenes' pictures
};

std::vector<PlacedForm> ScenePretraining::TowerForms() {
  std::vector<PlacedForm> forms =
      PlaceScene(RandomScene(RandomTag(random_), /*old_only=*/true, random_), random_);
  for (PlacedForm& placed : forms) {
    if (random_.Uniform() < 0.5) {
      do {
        placed.form = static_cast<Form>(random_.Below(kNumForms));
      } while (placed.form == Form::kTriangle);
    }
    if (random_.Uniform() < 0.5) placed.color = RandomRgb(random_);
  }
  return forms;
}

// The tower and a temporary head on its tokens. Stands for the CLIP-style pre-training of a
// released tower.
absl::Status ScenePretraining::Vision() {
  const int64_t width = model_.config().text.hidden_size;
  const int64_t outputs = kFormClasses + 3 * kColorLevels;
  const at::Tensor head = Normal(random_, {outputs, width}) * (0.6 / std::sqrt(width));
  const at::Tensor bias = at::zeros({outputs});
  const auto loss = [&]() -> absl::StatusOr<at::Tensor> {
    std::vector<uint8_t> pictures;
    std::vector<int64_t> forms(static_cast<size_t>(options_.batch_size * kImageTokens), kNumForms);
    std::vector<int64_t> cells, levels;  // of the cells with a form
    for (int64_t i = 0; i < options_.batch_size; ++i) {
      const std::vector<PlacedForm> shown = TowerForms();
      const std::vector<uint8_t> picture = RenderForms(shown, PaleBackground(random_));
      pictures.insert(pictures.end(), picture.begin(), picture.end());
      for (const PlacedForm& placed : shown) {
        constexpr int64_t kCell = kPictureSize / kCellsOnASide;
        const int64_t cell = static_cast<int64_t>(placed.y) / kCell * kCellsOnASide +
                             static_cast<int64_t>(placed.x) / kCell;
        cells.push_back(i * kImageTokens + cell);
        forms[static_cast<size_t>(cells.back())] = static_cast<int64_t>(placed.form);
        for (const uint8_t channel : placed.color) {
          levels.push_back((channel * (kColorLevels - 1) + 127) / 255);
        }
      }
    }
    FEDUMM_ASSIGN_OR_RETURN(const at::Tensor tokens,
                            EncodePictures(model_, PicturesOver(pictures)));
    const at::Tensor logits = at::linear(tokens.flatten(0, 1), head, bias);
    const at::Tensor with_form = logits.index_select(0, IndexTensor(cells));
    const at::Tensor form_of = IndexTensor(forms);
    return at::cross_entropy_loss(logits.narrow(1, 0, kFormClasses), form_of) +
           at::cross_entropy_loss(with_form.narrow(1, 0, kFormClasses),
                                  form_of.index_select(0, IndexTensor(cells))) +
           at::cross_entropy_loss(
               with_form.narrow(1, kFormClasses, 3 * kColorLevels).reshape({-1, kColorLevels}),
               IndexTensor(levels));
  };
  return RunStage(model_, {"vision", options_.vision}, {"visual."}, {head, bias}, loss, progress_);
}

absl::StatusOr<Sequence> ScenePretraining::Sentence(const Scene& shown) {
  const double kind = random_.Uniform();
  const SceneQuestion question =
      kind < options_.yes_no_share
          ? YesNoQuestionOf(shown, /*old_only=*/true, random_)
          : OpenQuestionOf(shown, kind < options_.yes_no_share + options_.caption_share ? 1 : 0,
                           random_);
  return SceneSequence(format_, question.text, question.answer);
}

absl::Status ScenePretraining::RenderForLanguage() {
  std::vector<uint8_t> pictures;
  for (int64_t i = 0; i < options_.pictures; ++i) {
    scenes_.push_back(RandomScene(RandomTag(random_), /*old_only=*/true, random_));
    const std::vector<uint8_t> picture = RenderScene(scenes_.back(), random_);
    pictures.insert(pictures.end(), picture.begin(), picture.end());
  }
  FEDUMM_ASSIGN_OR_RETURN(tokens_, ScaledTokens(model_, pictures, options_.image_token_std));
  return absl::OkStatus();
}

absl::StatusOr<at::Tensor> ScenePretraining::AnswersLoss(int64_t batch_size) {
  std::vector<Sequence> sequences;
  std::vector<int64_t> chosen;
  for (int64_t i = 0; i < batch_size; ++i) {
    chosen.push_back(static_cast<int64_t>(random_.Below(scenes_.size())));
    FEDUMM_ASSIGN_OR_RETURN(Sequence sequence,
                            Sentence(scenes_[static_cast<size_t>(chosen.back())]));
    sequences.push_back(std::move(sequence));
  }
  std::vector<const Sequence*> batch;
  for (const Sequence& sequence : sequences) batch.push_back(&sequence);
  return AnswerLoss(model_, AnswerBatch(batch), tokens_.index_select(0, IndexTensor(chosen)));
}

absl::Status ScenePretraining::Language() {
  FEDUMM_RETURN_IF_ERROR(RenderForLanguage());
  return RunStage(
      model_, {"language", options_.language},
      {"model.embed_tokens.", "model.layers.", "model.norm."}, {},
      [&] { return AnswersLoss(options_.batch_size); }, progress_);
}

// The decoder is trained on, too: from answers alone it learns too little about which colour of a
// prompt belongs to which shape, and which shape to which side. Answers stay part of the loss so
// that they are not forgotten.
absl::StatusOr<PixelCodec> ScenePretraining::Drawing() {
  constexpr double kAnswersWeight = 0.3;
  std::vector<uint8_t> any_color, old_colors;
  std::vector<std::vector<int64_t>> prompts;
  for (int64_t i = 0; i < options_.pictures; ++i) {
    // The codec's pictures: every shape, in many colours.
    std::vector<PlacedForm> forms =
        PlaceScene(RandomScene(RandomTag(random_), /*old_only=*/true, random_), random_);
    for (PlacedForm& placed : forms) {
      placed.form = FormOfSceneShape(static_cast<int>(random_.Below(kSceneShapes.size())));
      if (random_.Uniform() < 0.5) placed.color = RandomRgb(random_);
    }
    const std::vector<uint8_t> colored = RenderForms(forms, PaleBackground(random_));
    any_color.insert(any_color.end(), colored.begin(), colored.end());
    const Scene scene = RandomScene(RandomTag(random_), /*old_only=*/true, random_);
    const std::vector<uint8_t> picture = RenderScene(scene, random_);
    old_colors.insert(old_colors.end(), picture.begin(), picture.end());
    FEDUMM_ASSIGN_OR_RETURN(std::vector<int64_t> prompt,
                            format_.DrawPrompt(PromptOf(scene).prompt));
    prompts.push_back(std::move(prompt));
  }
  const PixelCodec codec =
      PixelCodec::Fit(PicturesOver(any_color), model_.config().dit->in_channels);
  const at::Tensor latents = codec.Encode(PicturesOver(old_colors));
  const auto loss = [&]() -> absl::StatusOr<at::Tensor> {
    std::vector<int64_t> chosen;
    std::vector<const std::vector<int64_t>*> wanted;
    for (int64_t i = 0; i < options_.batch_size; ++i) {
      chosen.push_back(static_cast<int64_t>(random_.Below(prompts.size())));
      wanted.push_back(&prompts[static_cast<size_t>(chosen.back())]);
    }
    const Batch batch = SceneDrawBatch(wanted, latents.index_select(0, IndexTensor(chosen)),
                                       model_.config().n_query, options_.prompt_dropout, random_);
    FEDUMM_ASSIGN_OR_RETURN(const at::Tensor answers,
                            AnswersLoss(std::max<int64_t>(1, options_.batch_size / 2)));
    return SceneDrawLoss(model_, batch) + kAnswersWeight * answers;
  };
  FEDUMM_RETURN_IF_ERROR(
      RunStage(model_, {"drawing", options_.drawing}, {"model."}, {}, loss, progress_));
  return codec;
}

}  // namespace

absl::Status PretrainScenes(const std::string& folder, const PretrainProgressFn& progress) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string json, ReadFile(absl::StrCat(folder, "/config.json")));
  FEDUMM_ASSIGN_OR_RETURN(const BackboneConfig config, BackboneConfig::FromJson(json));
  if (!config.dit.has_value()) return absl::InvalidArgumentError("the scenes' model needs a dit");
  FEDUMM_ASSIGN_OR_RETURN(const std::string recipe,
                          ReadFile(absl::StrCat(folder, "/pretrain.toml")));
  FEDUMM_ASSIGN_OR_RETURN(const PretrainOptions options, PretrainOptions::FromToml(recipe));
  FEDUMM_ASSIGN_OR_RETURN(const PromptFormat format, LoadSceneFormat(folder, config));
  return Guarded([&]() -> absl::Status {
    FEDUMM_ASSIGN_OR_RETURN(
        const std::unique_ptr<UnifiedModel> model,
        UnifiedModel::Create(config, UnifiedModel::InitialState(config, options.seed)));
    model->SetRequiresGrad(false);
    ScenePretraining pretraining(options, format, *model, progress);
    FEDUMM_RETURN_IF_ERROR(pretraining.Vision());
    FEDUMM_RETURN_IF_ERROR(pretraining.Language());
    FEDUMM_ASSIGN_OR_RETURN(const PixelCodec codec, pretraining.Drawing());
    StateDict state;
    for (const auto& [name, tensor] : model->Parameters()) state[name] = *tensor;
    codec.AddTo(state);
    return SavePretrained(absl::StrCat(folder, "/model.safetensors"), state, recipe);
  });
}

}  // namespace fedumm::model
