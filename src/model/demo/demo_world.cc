#include "model/demo/demo_world.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "fedumm/model/checkpoint.h"
#include "model/demo/steps.h"
#include "model/guarded.h"

namespace fedumm::model {
namespace {

constexpr int64_t kEncodeBatch = 250;
constexpr int64_t kAnswerBatch = 256;

absl::StatusOr<at::Tensor> EncodeAll(const UnifiedModel& model, const EasyVqaSplit& split) {
  const at::Tensor pictures = PicturesOver(split.pixels);
  std::vector<at::Tensor> parts;
  for (int64_t i = 0; i < pictures.size(0); i += kEncodeBatch) {
    const int64_t count = std::min(kEncodeBatch, pictures.size(0) - i);
    FEDUMM_ASSIGN_OR_RETURN(at::Tensor tokens, EncodePictures(model, pictures.narrow(0, i, count)));
    parts.push_back(std::move(tokens));
  }
  return at::cat(parts);
}

absl::Status AddSequences(const Vocabulary& vocabulary, QuestionSet& set) {
  for (const int64_t i : set.split.balanced) {
    const Question& question = set.split.questions[i];
    FEDUMM_ASSIGN_OR_RETURN(Sequence sequence, vocabulary.Vqa(question.text, question.answer));
    set.sequences.push_back(std::move(sequence));
    set.pictures.push_back(question.picture);
    set.is_new.push_back(question.is_new);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<at::Tensor> TokensOf(const UnifiedModel& model, const QuestionSet& set) {
  if (!set.image_tokens.defined()) {
    const at::NoGradGuard no_grad;
    FEDUMM_ASSIGN_OR_RETURN(set.image_tokens, EncodeAll(model, set.split));
  }
  return set.image_tokens;
}

absl::StatusOr<std::vector<int64_t>> GreedyAnswers(const UnifiedModel& model,
                                                   std::span<const Sequence> sequences,
                                                   std::span<const int64_t> pictures,
                                                   const at::Tensor& image_tokens) {
  const at::NoGradGuard no_grad;
  std::vector<int64_t> answers;
  for (size_t begin = 0; begin < sequences.size(); begin += kAnswerBatch) {
    const size_t count = std::min<size_t>(kAnswerBatch, sequences.size() - begin);
    std::vector<Sequence> prompts(sequences.begin() + begin, sequences.begin() + begin + count);
    std::vector<const Sequence*> batch;
    for (Sequence& prompt : prompts) {
      prompt.ids.resize(prompt.num_prompt + 1);
      batch.push_back(&prompt);
    }
    const at::Tensor images =
        image_tokens.index_select(0, IndexTensor(pictures.subspan(begin, count)));
    FEDUMM_ASSIGN_OR_RETURN(const at::Tensor logits,
                            AnswerLogits(model, AnswerBatch(batch), images));
    const at::Tensor best = logits.argmax(-1).cpu();
    const int64_t* values = best.const_data_ptr<int64_t>();
    answers.insert(answers.end(), values, values + count);
  }
  return answers;
}

DrawingSet DrawingsOf(const EasyVqaSplit& split) {
  DrawingSet set;
  std::vector<uint8_t> pixels;
  for (int64_t i = 0; i < split.num_pictures(); ++i) {
    if (!split.concepts[i].known()) continue;
    const std::optional<std::vector<uint8_t>> moved = Recentre(split.picture(i));
    if (!moved.has_value()) continue;
    set.concepts.push_back(split.concepts[i]);
    pixels.insert(pixels.end(), moved->begin(), moved->end());
  }
  set.pictures = PicturesOver(pixels).clone();
  return set;
}

DemoWorld::DemoWorld(std::unique_ptr<DemoState> state) : state_(std::move(state)) {}
DemoWorld::~DemoWorld() = default;

absl::StatusOr<std::unique_ptr<DemoWorld>> DemoWorld::Load(const std::string& model_folder,
                                                           const EasyVqa& data) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string json, ReadFile(model_folder + "/config.json"));
  FEDUMM_ASSIGN_OR_RETURN(const BackboneConfig config, BackboneConfig::FromJson(json));
  if (!config.dit.has_value()) return absl::InvalidArgumentError("the demo's model has no dit");
  FEDUMM_ASSIGN_OR_RETURN(StateDict weights, LoadStateDict(model_folder + "/model.safetensors"));
  auto state = std::make_unique<DemoState>(
      DemoState{.data = data, .train = {.split = data.train}, .test = {.split = data.test}});
  FEDUMM_ASSIGN_OR_RETURN(state->vocabulary, Vocabulary::Load(model_folder, config));
  FEDUMM_RETURN_IF_ERROR(AddSequences(*state->vocabulary, state->train));
  FEDUMM_RETURN_IF_ERROR(AddSequences(*state->vocabulary, state->test));
  FEDUMM_ASSIGN_OR_RETURN(state->codec, PixelCodec::TakeFrom(weights, config.dit->in_channels));
  FEDUMM_ASSIGN_OR_RETURN(state->model, UnifiedModel::Create(config, std::move(weights)));
  FEDUMM_RETURN_IF_ERROR(Guarded([&]() -> absl::Status {
    const at::NoGradGuard no_grad;
    DrawingSet drawings = DrawingsOf(data.train);
    state->latents = state->codec->Encode(drawings.pictures);
    state->drawn = std::move(drawings.concepts);
    return absl::OkStatus();
  }));
  for (const int64_t i : data.train.balanced) {
    state->vqa_labels.push_back(data.train.questions[i].answer);
  }
  for (const Concept drawn : state->drawn) {
    state->draw_labels.emplace_back(kColors[drawn.color]);
  }
  return std::unique_ptr<DemoWorld>(new DemoWorld(std::move(state)));
}

UnifiedModel& DemoWorld::model() { return *state_->model; }
const EasyVqa& DemoWorld::data() const { return state_->data; }
const std::vector<std::string>& DemoWorld::vqa_labels() const { return state_->vqa_labels; }
const std::vector<std::string>& DemoWorld::draw_labels() const { return state_->draw_labels; }

absl::StatusOr<std::vector<std::string>> DemoWorld::Answer(
    std::span<const int64_t> questions) const {
  std::vector<Sequence> sequences;
  std::vector<int64_t> pictures;
  for (const int64_t i : questions) {
    if (i < 0 || i >= static_cast<int64_t>(state_->data.test.questions.size())) {
      return absl::InvalidArgumentError(absl::StrCat("there is no test question ", i));
    }
    const Question& question = state_->data.test.questions[i];
    FEDUMM_ASSIGN_OR_RETURN(Sequence sequence,
                            state_->vocabulary->Vqa(question.text, question.answer));
    sequences.push_back(std::move(sequence));
    pictures.push_back(question.picture);
  }
  return Guarded([&]() -> absl::StatusOr<std::vector<std::string>> {
    FEDUMM_ASSIGN_OR_RETURN(const at::Tensor tokens, TokensOf(*state_->model, state_->test));
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> answers,
                            GreedyAnswers(*state_->model, sequences, pictures, tokens));
    std::vector<std::string> words;
    for (const int64_t id : answers) words.push_back(state_->vocabulary->Word(id));
    return words;
  });
}

absl::StatusOr<std::vector<Drawing>> DemoWorld::Draw(const DrawOptions& options) const {
  if (options.per_prompt < 1 || options.steps < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot draw ", options.per_prompt, " pictures in ", options.steps, " steps"));
  }
  std::vector<Concept> prompts;
  for (int color = 0; color < static_cast<int>(kColors.size()); ++color) {
    for (int shape = 0; shape < static_cast<int>(kShapes.size()); ++shape) {
      prompts.push_back({color, shape});
    }
  }
  return Guarded([&]() -> absl::StatusOr<std::vector<Drawing>> {
    const at::NoGradGuard no_grad;
    const at::Tensor hidden = PromptHidden(*state_->model, *state_->vocabulary, prompts)
                                  .repeat_interleave(options.per_prompt, 0);
    Random random(options.seed);
    const DitConfig& dit = *state_->model->config().dit;
    const at::Tensor noise =
        Normal(random, {hidden.size(0), dit.in_channels, dit.input_size, dit.input_size});
    const at::Tensor pictures =
        state_->codec
            ->Decode(state_->model->Sample(
                hidden, noise,
                {.steps = options.steps, .guidance = options.guidance, .integer_timesteps = false}))
            .contiguous();
    const uint8_t* pixels = pictures.const_data_ptr<uint8_t>();
    std::vector<Drawing> drawings;
    for (int64_t i = 0; i < pictures.size(0); ++i) {
      Drawing drawing{.wanted = prompts[i / options.per_prompt], .seen = {}, .pixels = {}};
      drawing.pixels.assign(pixels + i * kPictureBytes, pixels + (i + 1) * kPictureBytes);
      drawing.seen = Detect(drawing.pixels);
      drawings.push_back(std::move(drawing));
    }
    return drawings;
  });
}

}  // namespace fedumm::model
