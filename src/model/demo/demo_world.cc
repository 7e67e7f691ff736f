#include "model/demo/demo_world.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>

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

// The set's image tokens; encoded when they are first asked for, since a client never needs the
// test pictures, nor a server the others.
absl::StatusOr<at::Tensor> TokensOf(const UnifiedModel& model, const QuestionSet& set) {
  if (!set.image_tokens.defined()) {
    const at::NoGradGuard no_grad;
    FEDUMM_ASSIGN_OR_RETURN(set.image_tokens, EncodeAll(model, set.split));
  }
  return set.image_tokens;
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

absl::Status CheckShard(const std::vector<int64_t>& shard, size_t num_examples) {
  for (const int64_t i : shard) {
    if (i < 0 || i >= static_cast<int64_t>(num_examples)) {
      return absl::InvalidArgumentError(
          absl::StrCat("example ", i, " is not one of ", num_examples));
    }
  }
  return absl::OkStatus();
}

// Endless passes over a shard, each in a new order. Examples in several groups take turns by group:
// a colour of which a client has a dozen pictures is then seen as often as one of which it has
// hundreds.
class Batches {
 public:
  explicit Batches(std::vector<std::vector<int64_t>> groups) : groups_(groups.size()) {
    for (size_t i = 0; i < groups.size(); ++i) {
      size_ += static_cast<int64_t>(groups[i].size());
      groups_[i].examples = std::move(groups[i]);
    }
  }

  int64_t size() const { return size_; }
  void Seed(uint64_t seed) {
    random_ = Random(seed);
    for (Group& group : groups_) {
      std::sort(group.examples.begin(), group.examples.end());
      group.next = group.examples.size();
    }
    turns_.clear();
  }
  Random& random() { return random_; }
  absl::StatusOr<std::vector<int64_t>> Next(int64_t count) {
    if (size_ == 0) return absl::FailedPreconditionError("the shard has no examples");
    if (count <= 0) return absl::InvalidArgumentError(absl::StrCat("batch size is ", count));
    std::vector<int64_t> batch;
    while (static_cast<int64_t>(batch.size()) < count) batch.push_back(NextOf(NextGroup()));
    return batch;
  }

 private:
  struct Group {
    std::vector<int64_t> examples;
    size_t next = SIZE_MAX;
  };

  Group& NextGroup() {
    if (groups_.size() == 1) return groups_.front();
    while (turns_.empty()) {
      for (size_t i = 0; i < groups_.size(); ++i) {
        if (!groups_[i].examples.empty()) turns_.push_back(i);
      }
      random_.Shuffle(turns_);
    }
    Group& group = groups_[turns_.back()];
    turns_.pop_back();
    return group;
  }
  int64_t NextOf(Group& group) {
    if (group.next >= group.examples.size()) {
      random_.Shuffle(group.examples);
      group.next = 0;
    }
    return group.examples[group.next++];
  }

  std::vector<Group> groups_;
  std::vector<size_t> turns_;  // groups still to come in this pass
  int64_t size_ = 0;
  Random random_{0};
};

// The share of right answers, over all, the old and the new concepts.
class Score {
 public:
  void Add(bool right, bool is_new) {
    ++count_[is_new];
    right_[is_new] += right;
  }
  MetricRecord Metrics(const std::string& task) const {
    const int64_t count = count_[0] + count_[1];
    return {{task + "-accuracy", Share(right_[0] + right_[1], count)},
            {task + "-accuracy-new", Share(right_[1], count_[1])},
            {task + "-accuracy-old", Share(right_[0], count_[0])},
            {task + "-num-examples", count}};
  }

 private:
  static double Share(int64_t part, int64_t whole) {
    return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
  }
  int64_t count_[2] = {0, 0};
  int64_t right_[2] = {0, 0};
};

// The first token of the greedy answer to each sequence's prompt.
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
    FEDUMM_ASSIGN_OR_RETURN(const AnswerLogits said, Answers(model, batch, images));
    const at::Tensor best = said.logits.argmax(-1);
    const int64_t* values = best.const_data_ptr<int64_t>();
    answers.insert(answers.end(), values, values + count);
  }
  return answers;
}

class VqaTask final : public Task {
 public:
  VqaTask(const DemoState& world, std::vector<int64_t> shard, int64_t stride)
      : world_(world), batches_({std::move(shard)}) {
    for (size_t i = 0; i < world.test.sequences.size(); i += stride) {
      asked_.push_back(world.test.sequences[i]);
      pictures_.push_back(world.test.pictures[i]);
      is_new_.push_back(world.test.is_new[i]);
    }
  }

  std::string name() const override { return "vqa"; }
  int64_t num_examples() const override { return batches_.size(); }
  void Seed(uint64_t seed) override { batches_.Seed(seed); }

  absl::StatusOr<at::Tensor> Loss(int64_t batch_size) override {
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> batch, batches_.Next(batch_size));
    std::vector<const Sequence*> sequences;
    std::vector<int64_t> pictures;
    for (const int64_t i : batch) {
      sequences.push_back(&world_.train.sequences[i]);
      pictures.push_back(world_.train.pictures[i]);
    }
    return Guarded([&]() -> absl::StatusOr<at::Tensor> {
      FEDUMM_ASSIGN_OR_RETURN(const at::Tensor tokens, TokensOf(*world_.model, world_.train));
      return AnswerLoss(*world_.model, sequences, tokens.index_select(0, IndexTensor(pictures)));
    });
  }

  absl::StatusOr<MetricRecord> Evaluate() override {
    return Guarded([&]() -> absl::StatusOr<MetricRecord> {
      FEDUMM_ASSIGN_OR_RETURN(const at::Tensor tokens, TokensOf(*world_.model, world_.test));
      FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> answers,
                              GreedyAnswers(*world_.model, asked_, pictures_, tokens));
      Score score;
      for (size_t i = 0; i < asked_.size(); ++i) {
        score.Add(answers[i] == asked_[i].ids[asked_[i].num_prompt], is_new_[i]);
      }
      return score.Metrics(name());
    });
  }

 private:
  const DemoState& world_;
  Batches batches_;
  std::vector<Sequence> asked_;
  std::vector<int64_t> pictures_;
  std::vector<bool> is_new_;
};

class DrawTask final : public Task {
 public:
  DrawTask(const DemoWorld& world, const DemoState& state, std::vector<int64_t> shard,
           DrawOptions options, bool balanced)
      : world_(world),
        state_(state),
        batches_(balanced ? ByColor(state, shard) : std::vector<std::vector<int64_t>>{shard}),
        options_(options) {}

  std::string name() const override { return "draw"; }
  int64_t num_examples() const override { return batches_.size(); }
  void Seed(uint64_t seed) override { batches_.Seed(seed); }

  absl::StatusOr<at::Tensor> Loss(int64_t batch_size) override {
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> batch, batches_.Next(batch_size));
    std::vector<Concept> wanted;
    for (const int64_t i : batch) wanted.push_back(state_.drawn[i]);
    return Guarded([&]() -> absl::StatusOr<at::Tensor> {
      return DrawLoss(*state_.model, *state_.vocabulary, wanted,
                      state_.latents.index_select(0, IndexTensor(batch)), kPromptDropout,
                      TimeSampling::kStratified, batches_.random());
    });
  }

  absl::StatusOr<MetricRecord> Evaluate() override {
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<Drawing> drawings, world_.Draw(options_));
    Score score;
    for (const Drawing& drawing : drawings) {
      score.Add(drawing.right(), IsNewColor(drawing.wanted.color));
    }
    return score.Metrics(name());
  }

 private:
  static constexpr double kPromptDropout = 0.1;  // keeps classifier-free guidance in tune

  static std::vector<std::vector<int64_t>> ByColor(const DemoState& state,
                                                   const std::vector<int64_t>& shard) {
    std::vector<std::vector<int64_t>> groups(kColors.size());
    for (const int64_t i : shard) groups[state.drawn[i].color].push_back(i);
    return groups;
  }

  const DemoWorld& world_;
  const DemoState& state_;
  Batches batches_;
  DrawOptions options_;
};

}  // namespace

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

absl::StatusOr<std::unique_ptr<Task>> DemoWorld::NewVqaTask(std::vector<int64_t> shard,
                                                            int64_t stride) {
  FEDUMM_RETURN_IF_ERROR(CheckShard(shard, state_->vqa_labels.size()));
  if (stride < 1) return absl::InvalidArgumentError(absl::StrCat("stride is ", stride));
  return std::make_unique<VqaTask>(*state_, std::move(shard), stride);
}

absl::StatusOr<std::unique_ptr<Task>> DemoWorld::NewDrawTask(std::vector<int64_t> shard,
                                                             DrawOptions options, bool balanced) {
  FEDUMM_RETURN_IF_ERROR(CheckShard(shard, state_->draw_labels.size()));
  return std::make_unique<DrawTask>(*this, *state_, std::move(shard), options, balanced);
}

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
