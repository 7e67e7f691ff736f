#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "base/file.h"
#include "base/status_macros.h"
#include "fedumm/model/demo.h"
#include "model/demo/pretrain_examples.h"
#include "model/demo/pretrain_stage.h"
#include "model/demo/steps.h"
#include "model/demo/vocabulary.h"
#include "model/guarded.h"
#include "model/tasks/pixel_codec.h"

namespace fedumm::model {
namespace {

constexpr int64_t kLevels = 5;  // of each colour channel, for the tower's head

using Progress = PretrainProgressFn;

void Append(std::vector<uint8_t>& pictures, const std::vector<uint8_t>& picture) {
  pictures.insert(pictures.end(), picture.begin(), picture.end());
}

// What the stages have in common. No stage sees a picture of a client or of the test set: all are
// rendered.
class Pretraining {
 public:
  Pretraining(const PretrainOptions& options, const Vocabulary& vocabulary, UnifiedModel& model,
              const Progress& progress)
      : options_(options),
        vocabulary_(vocabulary),
        model_(model),
        progress_(progress),
        random_(options.seed, {1}),
        examples_(random_) {}

  absl::Status Vision();
  absl::Status Language();
  absl::StatusOr<PixelCodec> Drawing();

 private:
  absl::StatusOr<Sequence> Sentence(Concept shown);

  const PretrainOptions& options_;
  const Vocabulary& vocabulary_;
  UnifiedModel& model_;
  const Progress& progress_;
  Random random_;
  PretrainExamples examples_;
};

// The tower and a temporary head on its mean token learn to classify a shape's form and its levels
// of red, green and blue. Stands for the CLIP-style pre-training of a released tower.
absl::Status Pretraining::Vision() {
  const int64_t width = model_.config().text.hidden_size;
  const int64_t outputs = kNumForms + 3 * kLevels;
  const at::Tensor head = Normal(random_, {outputs, width}) * (0.6 / std::sqrt(width));
  const at::Tensor bias = at::zeros({outputs});
  const auto loss = [&]() -> absl::StatusOr<at::Tensor> {
    std::vector<uint8_t> pictures;
    std::vector<int64_t> forms, levels;
    for (int64_t i = 0; i < options_.batch_size; ++i) {
      const TowerExample example = examples_.Tower();
      Append(pictures, example.picture);
      forms.push_back(static_cast<int64_t>(example.form));
      for (const uint8_t channel : example.color) {
        levels.push_back((channel * (kLevels - 1) + 127) / 255);
      }
    }
    FEDUMM_ASSIGN_OR_RETURN(const at::Tensor tokens,
                            EncodePictures(model_, PicturesOver(pictures)));
    const at::Tensor logits = at::linear(tokens.mean(1), head, bias);
    return at::cross_entropy_loss(logits.narrow(1, 0, kNumForms), IndexTensor(forms)) +
           at::cross_entropy_loss(logits.narrow(1, kNumForms, 3 * kLevels).reshape({-1, kLevels}),
                                  IndexTensor(levels));
  };
  return RunStage(model_, {"vision", options_.vision}, {"visual."}, {head, bias}, loss, progress_);
}

absl::StatusOr<Sequence> Pretraining::Sentence(Concept shown) {
  const double kind = random_.Uniform();
  if (kind < options_.caption_share) return vocabulary_.Caption(shown);
  const bool yes_no = kind < options_.caption_share + options_.yes_no_share;
  const QuestionExample example =
      yes_no ? examples_.YesNoQuestion(shown) : examples_.WhatQuestion(shown);
  return vocabulary_.Vqa(example.question, example.answer);
}

// The decoder on old concepts alone. The circuit that matches a word with the picture forms only
// when yes-or-no questions are most of what it sees.
absl::Status Pretraining::Language() {
  std::vector<uint8_t> pictures;
  std::vector<Concept> concepts;
  for (int64_t i = 0; i < options_.pictures; ++i) {
    const ConceptExample example = examples_.Picture();
    Append(pictures, example.picture);
    concepts.push_back(example.shown);
  }
  FEDUMM_ASSIGN_OR_RETURN(const at::Tensor tokens,
                          ScaledTokens(model_, pictures, options_.image_token_std));
  const auto loss = [&]() -> absl::StatusOr<at::Tensor> {
    std::vector<Sequence> sequences;
    std::vector<int64_t> chosen;
    for (int64_t i = 0; i < options_.batch_size; ++i) {
      chosen.push_back(static_cast<int64_t>(random_.Below(concepts.size())));
      FEDUMM_ASSIGN_OR_RETURN(Sequence sequence, Sentence(concepts[chosen.back()]));
      sequences.push_back(std::move(sequence));
    }
    std::vector<const Sequence*> batch;
    for (const Sequence& sequence : sequences) batch.push_back(&sequence);
    return AnswerLoss(model_, AnswerBatch(batch), tokens.index_select(0, IndexTensor(chosen)));
  };
  return RunStage(model_, {"language", options_.language},
                  {"model.embed_tokens.", "model.layers.", "model.norm."}, {}, loss, progress_);
}

absl::StatusOr<PixelCodec> Pretraining::Drawing() {
  std::vector<uint8_t> any_color, old_colors;
  std::vector<Concept> concepts;
  for (int64_t i = 0; i < options_.pictures; ++i) {
    Append(any_color, examples_.CodecPicture());
    const ConceptExample example = examples_.Drawing();
    Append(old_colors, example.picture);
    concepts.push_back(example.shown);
  }
  const PixelCodec codec =
      PixelCodec::Fit(PicturesOver(any_color), model_.config().dit->in_channels);
  const at::Tensor latents = codec.Encode(PicturesOver(old_colors));
  const auto loss = [&]() -> absl::StatusOr<at::Tensor> {
    std::vector<int64_t> chosen;
    std::vector<Concept> wanted;
    for (int64_t i = 0; i < options_.batch_size; ++i) {
      chosen.push_back(static_cast<int64_t>(random_.Below(concepts.size())));
      wanted.push_back(concepts[chosen.back()]);
    }
    return DrawLoss(model_,
                    DrawBatch(vocabulary_, wanted, latents.index_select(0, IndexTensor(chosen)),
                              options_.prompt_dropout, TimeSampling::kIndependent, random_));
  };
  FEDUMM_RETURN_IF_ERROR(RunStage(model_, {"drawing", options_.drawing},
                                  {"model.latent_queries", "model.dit."}, {}, loss, progress_));
  return codec;
}

}  // namespace

absl::Status Pretrain(const std::string& folder, const Progress& progress) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string json, ReadFile(folder + "/config.json"));
  FEDUMM_ASSIGN_OR_RETURN(const BackboneConfig config, BackboneConfig::FromJson(json));
  if (!config.dit.has_value()) return absl::InvalidArgumentError("the demo's model needs a dit");
  FEDUMM_ASSIGN_OR_RETURN(const std::string recipe, ReadFile(folder + "/pretrain.toml"));
  FEDUMM_ASSIGN_OR_RETURN(const PretrainOptions options, PretrainOptions::FromToml(recipe));
  FEDUMM_ASSIGN_OR_RETURN(const Vocabulary vocabulary, Vocabulary::Load(folder, config));
  return Guarded([&]() -> absl::Status {
    FEDUMM_ASSIGN_OR_RETURN(
        const std::unique_ptr<UnifiedModel> model,
        UnifiedModel::Create(config, UnifiedModel::InitialState(config, options.seed)));
    model->SetRequiresGrad(false);

    Pretraining pretraining(options, vocabulary, *model, progress);
    FEDUMM_RETURN_IF_ERROR(pretraining.Vision());
    FEDUMM_RETURN_IF_ERROR(pretraining.Language());
    FEDUMM_ASSIGN_OR_RETURN(const PixelCodec codec, pretraining.Drawing());

    StateDict state;
    for (const auto& [name, tensor] : model->Parameters()) state[name] = *tensor;
    codec.AddTo(state);
    return SavePretrained(folder + "/model.safetensors", state, recipe);
  });
}

}  // namespace fedumm::model
