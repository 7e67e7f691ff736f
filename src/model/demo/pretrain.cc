#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "fedumm/model/demo.h"
#include "fedumm/model/safetensors.h"
#include "fedumm/model/train.h"
#include "model/demo/demo_world.h"
#include "model/demo/pixel_codec.h"
#include "model/demo/steps.h"
#include "model/guarded.h"

namespace fedumm::model {
namespace {

constexpr int64_t kNumColors = static_cast<int64_t>(kColors.size());
constexpr int64_t kNumShapes = static_cast<int64_t>(kShapes.size());
constexpr int64_t kProgressSteps = 50;
constexpr int64_t kEncodeBatch = 250;

using Progress = std::function<void(const PretrainProgress&)>;
using BatchLoss = std::function<absl::StatusOr<at::Tensor>()>;

// What the stages have in common.
class Pretraining {
 public:
  Pretraining(const PretrainOptions& options, const EasyVqa& data, const Vocabulary& vocabulary,
              UnifiedModel& model, const Progress& progress)
      : options_(options),
        data_(data),
        vocabulary_(vocabulary),
        model_(model),
        progress_(progress),
        random_(options.seed, {1}) {}

  absl::Status Vision();
  absl::Status Language();
  absl::Status Drawing(const PixelCodec& codec, const DrawingSet& drawings);

 private:
  // Trains the parameters under `prefixes` and `extra`, then freezes them.
  absl::Status Run(std::string_view name, const PretrainStage& stage,
                   std::initializer_list<std::string_view> prefixes, std::vector<at::Tensor> extra,
                   const BatchLoss& loss);
  absl::Status ScaleImageTokens();
  template <typename T>
  const T& Pick(const std::vector<T>& values) {
    return values[random_.Below(values.size())];
  }

  const PretrainOptions& options_;
  const EasyVqa& data_;
  const Vocabulary& vocabulary_;
  UnifiedModel& model_;
  const Progress& progress_;
  Random random_;
  at::Tensor image_tokens_;  // of the training pictures, once the tower is done
};

absl::Status Pretraining::Run(std::string_view name, const PretrainStage& stage,
                              std::initializer_list<std::string_view> prefixes,
                              std::vector<at::Tensor> parameters, const BatchLoss& loss) {
  for (const auto& [path, tensor] : model_.Parameters()) {
    for (const std::string_view prefix : prefixes) {
      if (std::string_view(path).starts_with(prefix)) parameters.push_back(*tensor);
    }
  }
  FEDUMM_ASSIGN_OR_RETURN(FlatParameters flat, FlatParameters::Create(std::move(parameters)));
  TrainOptions train{.steps = stage.steps,
                     .learning_rate = {.value = stage.learning_rate,
                                       .warmup_steps = stage.warmup_steps,
                                       .cosine = true,
                                       .final_value = 0.03 * stage.learning_rate,
                                       .total_steps = stage.steps},
                     .beta1 = 0.9,
                     .beta2 = 0.98,
                     .weight_decay = stage.weight_decay,
                     .max_grad_norm = 1};
  double mean = 0;
  const auto reported = [&](int64_t step) -> absl::StatusOr<at::Tensor> {
    FEDUMM_ASSIGN_OR_RETURN(at::Tensor value, loss());
    const double keep = step == 0 ? 0 : 0.95;
    mean = keep * mean + (1 - keep) * value.item<double>();
    if ((step + 1) % kProgressSteps == 0 || step + 1 == stage.steps) {
      progress_({name, step + 1, stage.steps, mean});
    }
    return value;
  };
  FEDUMM_RETURN_IF_ERROR(Train(flat, reported, train).status());
  model_.SetRequiresGrad(false);
  return absl::OkStatus();
}

// The tower and a throw-away head on its mean token tell colour and shape, of all concepts: this is
// the place of the CLIP-style pre-training that a released tower comes with.
absl::Status Pretraining::Vision() {
  std::vector<int64_t> known;
  for (int64_t i = 0; i < data_.train.num_pictures(); ++i) {
    if (data_.train.concepts[i].known()) known.push_back(i);
  }
  if (known.empty()) return absl::InvalidArgumentError("no picture's colour and shape are known");
  const at::Tensor pictures = PicturesOver(data_.train.pixels);
  const int64_t width = model_.config().text.hidden_size;
  const at::Tensor head =
      Normal(random_, {kNumColors + kNumShapes, width}) * (0.6 / std::sqrt(width));
  const at::Tensor bias = at::zeros({kNumColors + kNumShapes});
  const auto loss = [&]() -> absl::StatusOr<at::Tensor> {
    std::vector<int64_t> chosen, colors, shapes;
    for (int64_t i = 0; i < options_.batch_size; ++i) {
      chosen.push_back(Pick(known));
      colors.push_back(data_.train.concepts[chosen.back()].color);
      shapes.push_back(data_.train.concepts[chosen.back()].shape);
    }
    FEDUMM_ASSIGN_OR_RETURN(const at::Tensor tokens,
                            EncodePictures(model_, pictures.index_select(0, IndexTensor(chosen))));
    const at::Tensor logits = at::linear(tokens.mean(1), head, bias);
    return at::cross_entropy_loss(logits.narrow(1, 0, kNumColors), IndexTensor(colors)) +
           at::cross_entropy_loss(logits.narrow(1, kNumColors, kNumShapes), IndexTensor(shapes));
  };
  FEDUMM_RETURN_IF_ERROR(Run("vision", options_.vision, {"visual."}, {head, bias}, loss));
  return ScaleImageTokens();
}

absl::Status Pretraining::ScaleImageTokens() {
  const at::NoGradGuard no_grad;
  const at::Tensor pictures = PicturesOver(data_.train.pixels);
  std::vector<at::Tensor> parts;
  for (int64_t i = 0; i < pictures.size(0); i += kEncodeBatch) {
    const int64_t count = std::min(kEncodeBatch, pictures.size(0) - i);
    FEDUMM_ASSIGN_OR_RETURN(at::Tensor tokens,
                            EncodePictures(model_, pictures.narrow(0, i, count)));
    parts.push_back(std::move(tokens));
  }
  const at::Tensor tokens = at::cat(parts);
  const double scale = options_.image_token_std / tokens.std().item<double>();
  const std::map<std::string, at::Tensor*> parameters = model_.Parameters();
  for (const char* name : {"visual.merger.mlp.2.weight", "visual.merger.mlp.2.bias"}) {
    parameters.at(name)->mul_(scale);
  }
  image_tokens_ = tokens * scale;
  return absl::OkStatus();
}

// The decoder on old concepts alone. Yes-or-no questions are drawn evenly over types and answers:
// the circuit that matches a word with the picture forms only when they are most of what it sees.
absl::Status Pretraining::Language() {
  struct Example {
    Sequence sequence;
    int64_t picture;
  };
  std::map<std::pair<QuestionType, std::string>, std::vector<Example>> groups;
  for (const Question& question : data_.train.questions) {
    if (question.is_new || !data_.train.concepts[question.picture].known()) continue;
    FEDUMM_ASSIGN_OR_RETURN(Sequence sequence, vocabulary_.Vqa(question.text, question.answer));
    groups[{question.type, question.answer}].push_back({std::move(sequence), question.picture});
  }
  std::vector<const std::vector<Example>*> yes_no, what;
  for (const auto& [key, examples] : groups) {
    const bool is_what =
        key.first == QuestionType::kWhatColor || key.first == QuestionType::kWhatShape;
    (is_what ? what : yes_no).push_back(&examples);
  }
  std::vector<Example> captions;
  for (int64_t i = 0; i < data_.train.num_pictures(); ++i) {
    const Concept shown = data_.train.concepts[i];
    if (!shown.known() || IsNewColor(shown.color) || IsNewShape(shown.shape)) continue;
    FEDUMM_ASSIGN_OR_RETURN(Sequence sequence, vocabulary_.Caption(shown));
    captions.push_back({std::move(sequence), i});
  }
  if (yes_no.empty() || what.empty() || captions.empty()) {
    return absl::InvalidArgumentError("no questions about old concepts");
  }
  const auto loss = [&]() -> absl::StatusOr<at::Tensor> {
    std::vector<const Sequence*> sequences;
    std::vector<int64_t> pictures;
    for (int64_t i = 0; i < options_.batch_size; ++i) {
      const double kind = random_.Uniform();
      const Example& example = kind < options_.caption_share ? Pick(captions)
                               : kind < options_.caption_share + options_.yes_no_share
                                   ? Pick(*Pick(yes_no))
                                   : Pick(*Pick(what));
      sequences.push_back(&example.sequence);
      pictures.push_back(example.picture);
    }
    return AnswerLoss(model_, AnswerBatch(sequences),
                      image_tokens_.index_select(0, IndexTensor(pictures)));
  };
  return Run("language", options_.language, {"model.embed_tokens.", "model.layers.", "model.norm."},
             {}, loss);
}

absl::Status Pretraining::Drawing(const PixelCodec& codec, const DrawingSet& drawings) {
  std::vector<int64_t> old;
  for (int64_t i = 0; i < static_cast<int64_t>(drawings.concepts.size()); ++i) {
    if (!IsNewColor(drawings.concepts[i].color)) old.push_back(i);
  }
  if (old.empty()) return absl::InvalidArgumentError("no pictures of old colours");
  const at::Tensor latents = codec.Encode(drawings.pictures);
  const auto loss = [&]() -> absl::StatusOr<at::Tensor> {
    std::vector<int64_t> chosen;
    std::vector<Concept> wanted;
    for (int64_t i = 0; i < options_.batch_size; ++i) {
      chosen.push_back(Pick(old));
      wanted.push_back(drawings.concepts[chosen.back()]);
    }
    return DrawLoss(model_,
                    DrawBatch(vocabulary_, wanted, latents.index_select(0, IndexTensor(chosen)),
                              options_.prompt_dropout, TimeSampling::kIndependent, random_));
  };
  return Run("drawing", options_.drawing, {"model.latent_queries", "model.dit."}, {}, loss);
}

absl::Status Save(const std::string& path, const StateDict& state, const std::string& recipe) {
  std::vector<at::Tensor> owned;
  std::vector<SafetensorsTensor> tensors;
  for (const auto& [name, tensor] : state) {
    const at::Tensor& bytes = owned.emplace_back(tensor.detach().to(at::kFloat).contiguous());
    tensors.push_back(
        {name, SafetensorsDType::kF32, bytes.sizes().vec(),
         std::string_view(static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes())});
  }
  return WriteSafetensors(
      path, tensors, {{"format", "pt"}, {"recipe", recipe}, {"recipe_sha256", Sha256Hex(recipe)}});
}

}  // namespace

absl::Status Pretrain(const std::string& folder, const EasyVqa& data, const Progress& progress) {
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
    const DrawingSet drawings = DrawingsOf(data.train);
    const PixelCodec codec = PixelCodec::Fit(drawings.pictures, config.dit->in_channels);

    Pretraining pretraining(options, data, vocabulary, *model, progress);
    FEDUMM_RETURN_IF_ERROR(pretraining.Vision());
    FEDUMM_RETURN_IF_ERROR(pretraining.Language());
    FEDUMM_RETURN_IF_ERROR(pretraining.Drawing(codec, drawings));

    StateDict state;
    for (const auto& [name, tensor] : model->Parameters()) state[name] = *tensor;
    codec.AddTo(state);
    return Save(folder + "/model.safetensors", state, recipe);
  });
}

}  // namespace fedumm::model
