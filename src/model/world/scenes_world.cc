#include "model/world/scenes_world.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fedumm/model/client.h"
#include "fedumm/model/image.h"
#include "fedumm/model/vqa.h"
#include "model/scenes/pretrain_scenes.h"
#include "model/scenes/scene_model.h"
#include "model/world/labelled_world.h"
#include "model/world/shares.h"

namespace fedumm::model {
namespace {

constexpr const char* kVqaTask = "vqa";
constexpr const char* kDrawTask = "draw";
constexpr int64_t kNumTags = std::ssize(kSceneTags);
constexpr size_t kNumAskedSamples = 12;
constexpr int64_t kDrawingSamplesPerTag = 2;
// Of the rendered pictures: the same in every run, so that runs of other seeds share the examples.
constexpr uint64_t kTrainSeed = 1, kTestSeed = 2;

TaskInfo InfoOfSceneTask(const std::string& task) {
  if (task == kVqaTask) {
    TaskInfo info{.name = task,
                  .title = "Answering",
                  .metric = "vqa-accuracy",
                  .metric_title = "VQA accuracy",
                  .part_metric = "vqa-accuracy-new",
                  .part_title = "new shapes and colours",
                  .count_metric = "vqa-num-examples",
                  .holding_title = "questions by label",
                  .defaults = kSceneVqaDefaults};
    for (const std::string_view type : kSceneQuestionTypes) {
      const std::string name(type);
      info.breakdown.emplace_back(name, absl::StrCat("vqa-accuracy-", name));
    }
    return info;
  }
  TaskInfo info{.name = task,
                .title = "Drawing",
                .metric = "draw-overall",
                .metric_title = "GenEval overall",
                .part_metric = "",
                .part_title = "",
                .count_metric = "draw-num-examples",
                .holding_title = "pictures by GenEval tag",
                .defaults = kSceneDrawDefaults};
  for (const std::string_view tag : kSceneTags) {
    const std::string name(tag);
    info.breakdown.emplace_back(name, absl::StrCat("draw-", name));
  }
  return info;
}

absl::StatusOr<std::string> PngOfScene(std::span<const uint8_t> pixels) {
  return EncodePng(
      {.width = kPictureSize, .height = kPictureSize, .pixels = {pixels.begin(), pixels.end()}});
}

class ScenesWorld final : public LabelledWorld {
 public:
  static absl::StatusOr<std::unique_ptr<World>> Load(const ConfigRecord& settings) {
    const auto count = [&](const char* key) {
      return static_cast<int64_t>(NumberOr(settings, key, 0));
    };
    FEDUMM_ASSIGN_OR_RETURN(
        std::unique_ptr<SceneModel> scenes,
        SceneModel::Load(TextOr(settings, "model.checkpoint", ""),
                         SceneSet::Render(count("data.pictures"), kTrainSeed),
                         SceneSet::Render(count("data.test-pictures"), kTestSeed)));
    return std::unique_ptr<World>(new ScenesWorld(settings, std::move(scenes)));
  }

  WorldInfo Info() const override {
    WorldInfo info;
    for (const std::string& task : tasks_) info.tasks.push_back(InfoOfSceneTask(task));
    info.notes.emplace_back(kFrozenSceneModelHasSeen);
    info.notes.push_back(absl::StrCat(
        "Answers are greedy, of up to seven words, and judged by VQA v2's official accuracy; "
        "drawings by GenEval's official rules on what a detector without a model finds, one "
        "drawing for each held-out prompt; the figure is the mean of the six tags."));
    if (NumberOr(settings_, "data.balanced-batches", 1) != 0) {
      info.notes.emplace_back(
          "Batches of drawings are balanced by tag in every training (data.balanced-batches), a "
          "remedy for the clients' skewed shares.");
    }
    return info;
  }

  absl::StatusOr<std::vector<Sample>> Samples() override {
    std::vector<Sample> samples;
    for (const std::string& task : tasks_) {
      FEDUMM_RETURN_IF_ERROR(task == kVqaTask ? AddQuestions(samples) : AddDrawings(samples));
    }
    return samples;
  }

  absl::StatusOr<std::string> Generate(const GenerateRequest& options) override {
    FEDUMM_ASSIGN_OR_RETURN(
        const Image picture,
        scenes_->DrawPrompt(options.prompt, options.seed,
                            {.steps = options.steps, .guidance = options.guidance}));
    return EncodePng(picture);
  }

  absl::StatusOr<std::unique_ptr<World>> Clone() override { return Load(settings_); }

 private:
  ScenesWorld(const ConfigRecord& settings, std::unique_ptr<SceneModel> scenes)
      : LabelledWorld(settings), scenes_(std::move(scenes)) {}

  UnifiedModel& model() const override { return scenes_->model(); }

  std::vector<std::string> LabelsOf(const std::string& task) const override {
    std::vector<std::string> labels;
    const SceneSet& train = scenes_->train().set;
    if (task == kDrawTask) {
      for (const Scene& scene : train.scenes) labels.emplace_back(NameOf(scene.tag));
      return labels;
    }
    const bool by_answer = TextOr(settings_, "data.label", "") == "answer";
    for (const SceneAsked& asked : train.questions) {
      labels.push_back(by_answer ? asked.question.answer : asked.question.type);
    }
    return labels;
  }

  absl::StatusOr<std::unique_ptr<Task>> NewTask(const std::string& task, std::vector<int64_t> share,
                                                Judging judging) const override {
    const bool own = judging.own.has_value();
    const PreparedScenes& judged = own ? scenes_->train() : scenes_->test();
    if (task == kVqaTask) {
      return scenes_->NewVqaTask(std::move(share), judged,
                                 judging.Indices(std::ssize(judged.set.questions)));
    }
    const bool balanced = NumberOr(settings_, "data.balanced-batches", 1) != 0;
    return scenes_->NewDrawTask(std::move(share),
                                balanced ? GroupOrder::kTakeTurns : GroupOrder::kMixed, judged,
                                own ? *judging.own : HeldOutPrompts(judging.stride));
  }

  // The same number of each tag, one tag after the other.
  std::vector<int64_t> HeldOutPrompts(int64_t stride) const {
    const int64_t per_tag =
        std::min(static_cast<int64_t>(NumberOr(settings_, "evaluate.prompts-per-tag", 1)),
                 std::ssize(scenes_->test().set.scenes) / kNumTags);
    std::vector<int64_t> prompts;
    for (int64_t tag = 0; tag < kNumTags; ++tag) {
      for (int64_t i = 0; i < per_tag; i += stride) prompts.push_back(i * kNumTags + tag);
    }
    return prompts;
  }

  // Questions from all over the held-out set.
  absl::Status AddQuestions(std::vector<Sample>& samples) const {
    const PreparedScenes& test = scenes_->test();
    const size_t count = test.set.questions.size();
    std::vector<int64_t> asked;
    for (size_t i = 0; i < std::min(count, kNumAskedSamples); ++i) {
      // A yes-or-no question in one case of three.
      const size_t question = i * count / kNumAskedSamples / 2 * 2 + (i % 3 == 0 ? 0 : 1);
      asked.push_back(static_cast<int64_t>(std::min(question, count - 1)));
    }
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<std::string> answers, scenes_->Answer(test, asked));
    for (size_t i = 0; i < asked.size(); ++i) {
      const SceneAsked& one = test.set.questions[static_cast<size_t>(asked[i])];
      FEDUMM_ASSIGN_OR_RETURN(
          std::string png, PngOfScene(std::span(test.set.pixels)
                                          .subspan(static_cast<size_t>(one.picture * kPictureBytes),
                                                   static_cast<size_t>(kPictureBytes))));
      samples.push_back({.task = kVqaTask,
                         .prompt = one.question.text,
                         .png = std::move(png),
                         .truth = one.question.answer,
                         .answer = answers[i],
                         .right = answers[i] == one.question.answer});
    }
    return absl::OkStatus();
  }

  // Equal seeds: the same noise before and after.
  absl::Status AddDrawings(std::vector<Sample>& samples) const {
    const PreparedScenes& test = scenes_->test();
    std::vector<int64_t> prompts;
    for (int64_t i = 0; i < std::min(kDrawingSamplesPerTag * kNumTags,
                                     static_cast<int64_t>(test.set.scenes.size()));
         ++i) {
      prompts.push_back(i);
    }
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<SceneDrawing> drawings,
                            scenes_->Draw(test, prompts, /*seed=*/1));
    for (const SceneDrawing& drawing : drawings) {
      FEDUMM_ASSIGN_OR_RETURN(std::string png, PngOfScene(drawing.pixels));
      samples.push_back({.task = kDrawTask,
                         .prompt = drawing.prompt.prompt,
                         .answer_png = std::move(png),
                         .right = drawing.verdict.correct});
    }
    return absl::OkStatus();
  }

  const std::unique_ptr<SceneModel> scenes_;
};

}  // namespace

std::vector<Setting> ScenesSettings() {
  std::vector<Setting> settings = {
      {.key = "model.checkpoint",
       .default_value = "configs/scenes",
       .help = "folder with config.json, tokenizer.json and model.safetensors"},
      {.key = "data.pictures",
       .default_value = int64_t{2400},
       .help = "scenes that are rendered for training; each has a prompt and two questions",
       .min = 6,
       .max = 100'000},
      {.key = "data.test-pictures",
       .default_value = int64_t{600},
       .help = "scenes that are rendered to be held out",
       .min = 6,
       .max = 100'000},
      {.key = "data.balanced-batches",
       .default_value = true,
       .help =
           "a batch of drawings has as many of each GenEval tag that the client holds, whatever "
           "its share is like"},
      {.key = "data.label",
       .default_value = "question-type",
       .help = "what questions are dealt to clients by; pictures go by GenEval tag",
       .choices = {"answer", "question-type"}},
  };
  const std::vector<Setting> tasks = {
      {.key = "train.tasks",
       .default_value = "vqa,draw",
       .help = "answering, drawing, or both",
       .choices = {"vqa", "draw", "vqa,draw"}},
      {.key = "evaluate.prompts-per-tag",
       .default_value = int64_t{60},
       .help = "held-out prompts of each GenEval tag, drawn once each; evaluations between the "
               "first and the last one take every evaluate.stride'th of them",
       .min = 1,
       .max = 10'000},
  };
  for (const auto& more : {ShareSettings(), tasks, TaskSettings(kVqaTask, kSceneVqaDefaults),
                           TaskSettings(kDrawTask, kSceneDrawDefaults)}) {
    settings.insert(settings.end(), more.begin(), more.end());
  }
  return settings;
}

absl::StatusOr<std::unique_ptr<World>> LoadScenesWorld(const ConfigRecord& settings) {
  return ScenesWorld::Load(settings);
}

absl::Status PretrainScenesWorld(const ConfigRecord& settings,
                                 const std::function<void(const PretrainStep&)>& progress) {
  return PretrainScenes(TextOr(settings, "model.checkpoint", ""),
                        [&](const PretrainProgress& step) {
                          progress({step.stage, step.step, step.steps, step.loss});
                        });
}

}  // namespace fedumm::model
