// The tasks of scenes: answering questions and drawing.
#include <ATen/core/Tensor.h>

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fedumm/model/vqa.h"
#include "model/guarded.h"
#include "model/scenes/scene_model.h"
#include "model/scenes/scene_steps.h"

namespace fedumm::model {
namespace {

constexpr double kPromptDropout = 0.1;  // keeps classifier-free guidance in tune
constexpr uint64_t kNoiseSeed = 0;      // equal noise before and after training

class MeanOf {
 public:
  void Add(double value) {
    sum_ += value;
    ++count_;
  }
  int64_t count() const { return count_; }
  double mean() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }

 private:
  double sum_ = 0;
  int64_t count_ = 0;
};

class SceneVqaTask final : public Task {
 public:
  SceneVqaTask(const SceneModel& model, std::vector<int64_t> shard, const PreparedScenes& scenes,
               std::vector<int64_t> judged)
      : model_(model), batches_(std::move(shard)), scenes_(scenes), judged_(std::move(judged)) {}

  std::string name() const override { return "vqa"; }
  TaskDefaults defaults() const override { return kSceneVqaDefaults; }
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
      sequences.push_back(&model_.train().sequences[static_cast<size_t>(i)]);
      pictures.push_back(model_.train().set.questions[static_cast<size_t>(i)].picture);
    }
    return Guarded([&]() -> absl::StatusOr<Batch> {
      Batch batch = AnswerBatch(sequences);
      batch["pictures"] = IndexTensor(pictures);
      return batch;
    });
  }

  absl::StatusOr<at::Tensor> Loss(const Batch& batch) override {
    return Guarded([&]() -> absl::StatusOr<at::Tensor> {
      FEDUMM_ASSIGN_OR_RETURN(const at::Tensor tokens, model_.TokensOf(model_.train()));
      return AnswerLoss(model_.model(), batch, tokens.index_select(0, batch.at("pictures")));
    });
  }

  absl::StatusOr<MetricRecord> Evaluate() override {
    const int64_t count = std::ssize(judged_);
    if (count == 0) return MetricRecord{{"vqa-num-examples", count}};
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<std::string> answers,
                            model_.Answer(scenes_, judged_));
    MeanOf all, of_new;
    std::map<std::string, MeanOf> by_type;
    for (size_t i = 0; i < answers.size(); ++i) {
      const SceneAsked& asked = scenes_.set.questions[static_cast<size_t>(judged_[i])];
      // Ten annotators who agree.
      const double accuracy =
          VqaAccuracy(answers[i], std::vector<std::string>(10, asked.question.answer));
      all.Add(accuracy);
      if (asked.is_new) of_new.Add(accuracy);
      by_type[asked.question.type].Add(accuracy);
    }
    MetricRecord metrics = {{"vqa-accuracy", all.mean()}};
    if (of_new.count() > 0) metrics.Set("vqa-accuracy-new", of_new.mean());
    for (const auto& [type, accuracy] : by_type) {
      metrics.Set(absl::StrCat("vqa-accuracy-", type), accuracy.mean());
    }
    metrics.Set("vqa-num-examples", count);
    return metrics;
  }

 private:
  const SceneModel& model_;
  Batches batches_;
  const PreparedScenes& scenes_;
  const std::vector<int64_t> judged_;
};

class SceneDrawTask final : public Task {
 public:
  SceneDrawTask(const SceneModel& model, const std::vector<int64_t>& shard, GroupOrder tags,
                const PreparedScenes& scenes, std::vector<int64_t> judged)
      : model_(model),
        batches_(ByTag(model.train().set, shard), tags),
        scenes_(scenes),
        judged_(std::move(judged)) {}

  std::string name() const override { return "draw"; }
  TaskDefaults defaults() const override { return kSceneDrawDefaults; }
  bool Trains(std::string_view module_path) const override {
    return !module_path.starts_with("visual.") && module_path != "lm_head";
  }
  int64_t num_examples() const override { return batches_.size(); }
  void Seed(uint64_t seed) override { batches_.Seed(seed); }

  absl::StatusOr<Batch> NextBatch(int64_t batch_size) override {
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> chosen, batches_.Next(batch_size));
    std::vector<const std::vector<int64_t>*> prompts;
    for (const int64_t i : chosen) {
      prompts.push_back(&model_.train().prompts[static_cast<size_t>(i)]);
    }
    return Guarded([&]() -> absl::StatusOr<Batch> {
      return SceneDrawBatch(prompts, model_.TrainLatents().index_select(0, IndexTensor(chosen)),
                            model_.model().config().n_query, kPromptDropout, batches_.random());
    });
  }

  absl::StatusOr<at::Tensor> Loss(const Batch& batch) override {
    return Guarded(
        [&]() -> absl::StatusOr<at::Tensor> { return SceneDrawLoss(model_.model(), batch); });
  }

  absl::StatusOr<MetricRecord> Evaluate() override {
    const int64_t count = std::ssize(judged_);
    if (count == 0) return MetricRecord{{"draw-num-examples", count}};
    FEDUMM_ASSIGN_OR_RETURN(std::vector<SceneDrawing> drawings,
                            model_.Draw(scenes_, judged_, kNoiseSeed));
    std::vector<GenevalResult> results;
    for (SceneDrawing& drawing : drawings) {
      results.push_back(
          {.picture = {.name = absl::StrCat(results.size()), .prompt = std::move(drawing.prompt)},
           .verdict = std::move(drawing.verdict)});
    }
    const GenevalSummary summary = Summarize(results);
    MetricRecord metrics = {{"draw-overall", summary.overall}};
    for (const GenevalSummary::Task& task : summary.tasks) {
      metrics.Set(absl::StrCat("draw-", task.tag), task.score());
    }
    metrics.Set("draw-num-examples", count);
    return metrics;
  }

 private:
  static std::vector<std::vector<int64_t>> ByTag(const SceneSet& set,
                                                 const std::vector<int64_t>& shard) {
    std::vector<std::vector<int64_t>> groups(kSceneTags.size());
    for (const int64_t i : shard) {
      groups[static_cast<size_t>(set.scenes[static_cast<size_t>(i)].tag)].push_back(i);
    }
    return groups;
  }

  const SceneModel& model_;
  Batches batches_;
  const PreparedScenes& scenes_;
  const std::vector<int64_t> judged_;
};

}  // namespace

std::unique_ptr<Task> SceneModel::NewVqaTask(std::vector<int64_t> shard,
                                             const PreparedScenes& scenes,
                                             std::vector<int64_t> judged) const {
  return std::make_unique<SceneVqaTask>(*this, std::move(shard), scenes, std::move(judged));
}

std::unique_ptr<Task> SceneModel::NewDrawTask(std::vector<int64_t> shard, GroupOrder tags,
                                              const PreparedScenes& scenes,
                                              std::vector<int64_t> judged) const {
  return std::make_unique<SceneDrawTask>(*this, shard, tags, scenes, std::move(judged));
}

}  // namespace fedumm::model
