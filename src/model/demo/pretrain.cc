#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "fedumm/model/demo.h"
#include "fedumm/model/safetensors.h"
#include "fedumm/model/train.h"
#include "model/demo/pixel_codec.h"
#include "model/demo/renderer.h"
#include "model/demo/steps.h"
#include "model/demo/vocabulary.h"
#include "model/guarded.h"

namespace fedumm::model {
namespace {

constexpr int64_t kProgressSteps = 50;
constexpr int64_t kEncodeBatch = 250;
constexpr int64_t kLevels = 5;  // of each colour channel, for the tower's head

using Progress = std::function<void(const PretrainProgress&)>;
using BatchLoss = std::function<absl::StatusOr<at::Tensor>()>;

constexpr std::array<std::string_view, 4> kColorQuestions = {
    "is there a % shape?", "is there a % shape in the image?", "is a % shape present?",
    "does the image contain a % shape?"};
constexpr std::array<std::string_view, 4> kShapeQuestions = {
    "is there a %?", "is there a % in the image?", "is a % present?",
    "does the image contain a %?"};
constexpr std::array<std::string_view, 4> kWhatColorQuestions = {
    "what color is the shape?", "what is the color of the shape?", "what color is the %?",
    "what is the color of the %?"};
constexpr std::array<std::string_view, 4> kWhatShapeQuestions = {
    "what shape is in the image?", "what shape does the image contain?", "what shape is present?",
    "what is the % shape?"};

// `question` with `word` in the place of its "%", if it has one.
std::string With(std::string_view question, std::string_view word) {
  std::string text(question);
  if (const size_t at = text.find('%'); at != std::string::npos) text.replace(at, 1, word);
  return text;
}

std::vector<int> OldColors() {
  std::vector<int> colors;
  for (int i = 0; i < static_cast<int>(kColors.size()); ++i) {
    if (!IsNewColor(i)) colors.push_back(i);
  }
  return colors;
}
std::vector<int> OldShapes() {
  std::vector<int> shapes;
  for (int i = 0; i < static_cast<int>(kShapes.size()); ++i) {
    if (!IsNewShape(i)) shapes.push_back(i);
  }
  return shapes;
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
        old_colors_(OldColors()),
        old_shapes_(OldShapes()) {}

  absl::Status Vision();
  absl::Status Language();
  absl::StatusOr<PixelCodec> Drawing();

 private:
  // Trains the parameters under `prefixes` and `extra`, then freezes them.
  absl::Status Run(std::string_view name, const PretrainStage& stage,
                   std::initializer_list<std::string_view> prefixes, std::vector<at::Tensor> extra,
                   const BatchLoss& loss);
  // The tower's tokens of `pictures`, scaled to options_.image_token_std. Scales the tower, too.
  absl::StatusOr<at::Tensor> ScaledTokens(const std::vector<uint8_t>& pictures);
  absl::StatusOr<Sequence> QuestionOrCaption(Concept shown);
  absl::StatusOr<Sequence> YesNoQuestion(Concept shown);
  absl::StatusOr<Sequence> WhatQuestion(Concept shown);
  // `count` centred pictures and what they show, if `concepts` is not null in old colours.
  at::Tensor CentredPictures(int64_t count, std::vector<Concept>* concepts);

  template <typename List>
  const auto& Pick(const List& values) {
    return values[random_.Below(values.size())];
  }
  // One of `values` other than `not_this`.
  int PickOther(const std::vector<int>& values, int not_this) {
    int value = not_this;
    while (value == not_this) value = Pick(values);
    return value;
  }
  void Append(std::vector<uint8_t>& pictures, Form form, Rgb color, Placement placement) {
    const std::vector<uint8_t> picture = RenderPicture(form, color, placement, random_);
    pictures.insert(pictures.end(), picture.begin(), picture.end());
  }

  const PretrainOptions& options_;
  const Vocabulary& vocabulary_;
  UnifiedModel& model_;
  const Progress& progress_;
  Random random_;
  const std::vector<int> old_colors_;
  const std::vector<int> old_shapes_;
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

// The tower and a throw-away head on its mean token tell a shape's form and how much red, green and
// blue it has, in levels: this is the place of the CLIP-style pre-training that a released tower
// comes with. The new colours, colours like them and triangles are in no picture.
absl::Status Pretraining::Vision() {
  const int64_t width = model_.config().text.hidden_size;
  const int64_t outputs = kNumForms + 3 * kLevels;
  const at::Tensor head = Normal(random_, {outputs, width}) * (0.6 / std::sqrt(width));
  const at::Tensor bias = at::zeros({outputs});
  const auto loss = [&]() -> absl::StatusOr<at::Tensor> {
    std::vector<uint8_t> pictures;
    std::vector<int64_t> forms, levels;
    for (int64_t i = 0; i < options_.batch_size; ++i) {
      Form form = Form::kTriangle;
      while (form == Form::kTriangle) form = static_cast<Form>(random_.Below(kNumForms));
      const Rgb color = random_.Uniform() < 0.5 ? kPalette[Pick(old_colors_)] : OtherColor(random_);
      Append(pictures, form, color, Placement::kAnywhere);
      forms.push_back(static_cast<int64_t>(form));
      for (const uint8_t channel : color) levels.push_back((channel * (kLevels - 1) + 127) / 255);
    }
    FEDUMM_ASSIGN_OR_RETURN(const at::Tensor tokens,
                            EncodePictures(model_, PicturesOver(pictures)));
    const at::Tensor logits = at::linear(tokens.mean(1), head, bias);
    return at::cross_entropy_loss(logits.narrow(1, 0, kNumForms), IndexTensor(forms)) +
           at::cross_entropy_loss(logits.narrow(1, kNumForms, 3 * kLevels).reshape({-1, kLevels}),
                                  IndexTensor(levels));
  };
  return Run("vision", options_.vision, {"visual."}, {head, bias}, loss);
}

absl::StatusOr<at::Tensor> Pretraining::ScaledTokens(const std::vector<uint8_t>& pixels) {
  const at::NoGradGuard no_grad;
  const at::Tensor pictures = PicturesOver(pixels);
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
  return tokens * scale;
}

absl::StatusOr<Sequence> Pretraining::YesNoQuestion(Concept shown) {
  const bool of_color = random_.Uniform() < 0.5;
  const bool yes = random_.Uniform() < 0.5;
  std::string_view named;
  if (of_color) {
    named = kColors[yes ? shown.color : PickOther(old_colors_, shown.color)];
  } else {
    named = kShapes[yes ? shown.shape : PickOther(old_shapes_, shown.shape)];
  }
  const std::string_view question = Pick(of_color ? kColorQuestions : kShapeQuestions);
  return vocabulary_.Vqa(With(question, named), yes ? "yes" : "no");
}

absl::StatusOr<Sequence> Pretraining::WhatQuestion(Concept shown) {
  const std::string_view color = kColors[shown.color], shape = kShapes[shown.shape];
  const bool of_color = random_.Uniform() < 0.5;
  const std::string_view question = Pick(of_color ? kWhatColorQuestions : kWhatShapeQuestions);
  return vocabulary_.Vqa(With(question, of_color ? shape : color),
                         std::string(of_color ? color : shape));
}

absl::StatusOr<Sequence> Pretraining::QuestionOrCaption(Concept shown) {
  const double kind = random_.Uniform();
  if (kind < options_.caption_share) return vocabulary_.Caption(shown);
  if (kind < options_.caption_share + options_.yes_no_share) return YesNoQuestion(shown);
  return WhatQuestion(shown);
}

// The decoder on old concepts alone. Half of the yes-or-no questions ask for the colour, half are
// answered by yes: the circuit that matches a word with the picture forms only when they are most
// of what it sees.
absl::Status Pretraining::Language() {
  std::vector<uint8_t> pictures;
  std::vector<Concept> concepts;
  for (int64_t i = 0; i < options_.pictures; ++i) {
    concepts.push_back({Pick(old_colors_), Pick(old_shapes_)});
    Append(pictures, static_cast<Form>(concepts.back().shape), kPalette[concepts.back().color],
           Placement::kAnywhere);
  }
  FEDUMM_ASSIGN_OR_RETURN(const at::Tensor tokens, ScaledTokens(pictures));
  const auto loss = [&]() -> absl::StatusOr<at::Tensor> {
    std::vector<Sequence> sequences;
    std::vector<int64_t> chosen;
    for (int64_t i = 0; i < options_.batch_size; ++i) {
      chosen.push_back(static_cast<int64_t>(random_.Below(concepts.size())));
      FEDUMM_ASSIGN_OR_RETURN(Sequence sequence, QuestionOrCaption(concepts[chosen.back()]));
      sequences.push_back(std::move(sequence));
    }
    std::vector<const Sequence*> batch;
    for (const Sequence& sequence : sequences) batch.push_back(&sequence);
    return AnswerLoss(model_, batch, tokens.index_select(0, IndexTensor(chosen)));
  };
  return Run("language", options_.language, {"model.embed_tokens.", "model.layers.", "model.norm."},
             {}, loss);
}

at::Tensor Pretraining::CentredPictures(int64_t count, std::vector<Concept>* concepts) {
  std::vector<uint8_t> pictures;
  while (static_cast<int64_t>(pictures.size()) < count * kPictureBytes) {
    const Concept shown = {Pick(old_colors_), static_cast<int>(random_.Below(kShapes.size()))};
    const Rgb color = concepts == nullptr ? OtherColor(random_) : kPalette[shown.color];
    const std::optional<std::vector<uint8_t>> picture = Recentre(
        RenderPicture(static_cast<Form>(shown.shape), color, Placement::kCentred, random_));
    if (!picture.has_value()) continue;  // too small
    pictures.insert(pictures.end(), picture->begin(), picture->end());
    if (concepts != nullptr) concepts->push_back(shown);
  }
  return PicturesOver(pictures).clone();
}

// The codec is fitted to shapes in any colours but the new ones and their like; latent queries and
// DiT draw old colours.
absl::StatusOr<PixelCodec> Pretraining::Drawing() {
  const PixelCodec codec = PixelCodec::Fit(CentredPictures(options_.pictures, nullptr),
                                           model_.config().dit->in_channels);
  std::vector<Concept> concepts;
  const at::Tensor latents = codec.Encode(CentredPictures(options_.pictures, &concepts));
  const auto loss = [&]() -> absl::StatusOr<at::Tensor> {
    std::vector<int64_t> chosen;
    std::vector<Concept> wanted;
    for (int64_t i = 0; i < options_.batch_size; ++i) {
      chosen.push_back(static_cast<int64_t>(random_.Below(concepts.size())));
      wanted.push_back(concepts[chosen.back()]);
    }
    return DrawLoss(model_, vocabulary_, wanted, latents.index_select(0, IndexTensor(chosen)),
                    options_.prompt_dropout, TimeSampling::kIndependent, random_);
  };
  FEDUMM_RETURN_IF_ERROR(
      Run("drawing", options_.drawing, {"model.latent_queries", "model.dit."}, {}, loss));
  return codec;
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
    return Save(folder + "/model.safetensors", state, recipe);
  });
}

}  // namespace fedumm::model
