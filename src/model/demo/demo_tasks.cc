// The tasks of the demo: answering questions and drawing.
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/demo/demo_world.h"
#include "model/demo/steps.h"
#include "model/guarded.h"
#include "model/tasks/batches.h"

namespace fedumm::model {
namespace {

absl::Status CheckShard(const std::vector<int64_t>& shard, size_t num_examples) {
  for (const int64_t i : shard) {
    if (i < 0 || i >= static_cast<int64_t>(num_examples)) {
      return absl::InvalidArgumentError(
          absl::StrCat("example ", i, " is not one of ", num_examples));
    }
  }
  return absl::OkStatus();
}

// The share of right answers, over all, the old and the new concepts.
class Score {
 public:
  void Add(bool right, bool is_new, int64_t times = 1) {
    count_[is_new] += times;
    right_[is_new] += right ? times : 0;
  }
  MetricRecord Metrics(const std::string& task) const {
    const int64_t count = count_[0] + count_[1];
    if (count == 0) return {{task + "-num-examples", count}};
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

class VqaTask final : public Task {
 public:
  VqaTask(const DemoState& world, std::vector<int64_t> shard, int64_t stride,
          std::optional<std::vector<int64_t>> own)
      : world_(world), batches_(std::move(shard)), stride_(stride), own_(std::move(own)) {}

  std::string name() const override { return "vqa"; }
  TaskDefaults defaults() const override { return kVqaDefaults; }
  bool Trains(std::string_view module_path) const override {
    return !module_path.starts_with("model.dit.");
  }
  int64_t num_examples() const override { return batches_.size(); }
  void Seed(uint64_t seed) override { batches_.Seed(seed); }

  absl::StatusOr<Batch> NextBatch(int64_t batch_size) override {
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> chosen, batches_.Next(batch_size));
    std::vector<const Sequence*> sequences;
    std::vector<int64_t> pictures;
    for (const int64_t i : chosen) {
      sequences.push_back(&world_.train.sequences[i]);
      pictures.push_back(world_.train.pictures[i]);
    }
    return Guarded([&]() -> absl::StatusOr<Batch> {
      Batch batch = AnswerBatch(sequences);
      batch["pictures"] = IndexTensor(pictures);
      return batch;
    });
  }

  absl::StatusOr<at::Tensor> Loss(const Batch& batch) override {
    return Guarded([&]() -> absl::StatusOr<at::Tensor> {
      FEDUMM_ASSIGN_OR_RETURN(const at::Tensor tokens, TokensOf(*world_.model, world_.train));
      return AnswerLoss(*world_.model, batch, tokens.index_select(0, batch.at("pictures")));
    });
  }

  absl::StatusOr<MetricRecord> Evaluate() override {
    const QuestionSet& judged = own_.has_value() ? world_.train : world_.test;
    // Made here: of a thousand virtual clients, each would keep the test set.
    std::vector<Sequence> asked;
    std::vector<int64_t> pictures;
    std::vector<bool> is_new;
    const auto ask = [&](size_t i) {
      asked.push_back(judged.sequences[i]);
      pictures.push_back(judged.pictures[i]);
      is_new.push_back(judged.is_new[i]);
    };
    if (own_.has_value()) {
      for (const int64_t i : *own_) ask(static_cast<size_t>(i));
    } else {
      for (size_t i = 0; i < judged.sequences.size(); i += static_cast<size_t>(stride_)) ask(i);
    }
    if (asked.empty()) return Score().Metrics(name());
    return Guarded([&]() -> absl::StatusOr<MetricRecord> {
      FEDUMM_ASSIGN_OR_RETURN(const at::Tensor tokens, TokensOf(*world_.model, judged));
      FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> answers,
                              GreedyAnswers(*world_.model, asked, pictures, tokens));
      Score score;
      for (size_t i = 0; i < asked.size(); ++i) {
        score.Add(answers[i] == asked[i].ids[asked[i].num_prompt], is_new[i]);
      }
      return score.Metrics(name());
    });
  }

 private:
  const DemoState& world_;
  Batches batches_;
  const int64_t stride_;                           // between the test questions that are asked
  const std::optional<std::vector<int64_t>> own_;  // questions of the training set to ask instead
};

class DrawTask final : public Task {
 public:
  DrawTask(const DemoWorld& world, const DemoState& state, std::vector<int64_t> shard,
           DrawOptions options, GroupOrder colors, std::optional<std::vector<int64_t>> own)
      : world_(world),
        state_(state),
        batches_(ByColor(state, shard), colors),
        options_(options),
        own_(std::move(own)) {}

  std::string name() const override { return "draw"; }
  TaskDefaults defaults() const override { return kDrawDefaults; }
  bool Trains(std::string_view module_path) const override {
    return !module_path.starts_with("visual.") && module_path != "lm_head";
  }
  int64_t num_examples() const override { return batches_.size(); }
  void Seed(uint64_t seed) override { batches_.Seed(seed); }

  absl::StatusOr<Batch> NextBatch(int64_t batch_size) override {
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> chosen, batches_.Next(batch_size));
    std::vector<Concept> wanted;
    for (const int64_t i : chosen) wanted.push_back(state_.drawn[i]);
    return Guarded([&]() -> absl::StatusOr<Batch> {
      return DrawBatch(*state_.vocabulary, wanted,
                       state_.latents.index_select(0, IndexTensor(chosen)), kPromptDropout,
                       TimeSampling::kStratified, batches_.random());
    });
  }

  absl::StatusOr<at::Tensor> Loss(const Batch& batch) override {
    return Guarded([&]() -> absl::StatusOr<at::Tensor> { return DrawLoss(*state_.model, batch); });
  }

  absl::StatusOr<MetricRecord> Evaluate() override {
    Score score;
    if (own_.has_value() && own_->empty()) return score.Metrics(name());
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<Drawing> drawings, world_.Draw(options_));
    for (const Drawing& drawing : drawings) {
      score.Add(drawing.right(), IsNewColor(drawing.wanted.color), TimesOf(drawing.wanted));
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

  // How often a drawing of that prompt counts.
  int64_t TimesOf(Concept wanted) const {
    if (!own_.has_value()) return 1;
    return std::count_if(own_->begin(), own_->end(),
                         [&](int64_t i) { return state_.drawn[static_cast<size_t>(i)] == wanted; });
  }

  const DemoWorld& world_;
  const DemoState& state_;
  Batches batches_;
  DrawOptions options_;
  const std::optional<std::vector<int64_t>> own_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Task>> DemoWorld::NewVqaTask(
    std::vector<int64_t> shard, int64_t stride, std::optional<std::vector<int64_t>> own) {
  FEDUMM_RETURN_IF_ERROR(CheckShard(shard, state_->vqa_labels.size()));
  if (own.has_value()) FEDUMM_RETURN_IF_ERROR(CheckShard(*own, state_->vqa_labels.size()));
  if (stride < 1) return absl::InvalidArgumentError(absl::StrCat("stride is ", stride));
  return std::make_unique<VqaTask>(*state_, std::move(shard), stride, std::move(own));
}

absl::StatusOr<std::unique_ptr<Task>> DemoWorld::NewDrawTask(
    std::vector<int64_t> shard, DrawOptions options, bool balanced_batches,
    std::optional<std::vector<int64_t>> own) {
  FEDUMM_RETURN_IF_ERROR(CheckShard(shard, state_->draw_labels.size()));
  if (own.has_value()) FEDUMM_RETURN_IF_ERROR(CheckShard(*own, state_->draw_labels.size()));
  return std::make_unique<DrawTask>(*this, *state_, std::move(shard), options,
                                    balanced_batches ? GroupOrder::kTakeTurns : GroupOrder::kMixed,
                                    std::move(own));
}

}  // namespace fedumm::model
