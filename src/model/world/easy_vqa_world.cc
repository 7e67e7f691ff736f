#include "model/world/easy_vqa_world.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "fedumm/model/client.h"
#include "fedumm/model/demo.h"
#include "fedumm/model/easy_vqa.h"
#include "fedumm/model/image.h"
#include "model/world/labelled_world.h"
#include "model/world/shares.h"

namespace fedumm::model {
namespace {

constexpr const char* kVqa = "vqa";
constexpr const char* kDraw = "draw";
constexpr size_t kNumQuestionSamples = 12;

// Where scripts/setup.sh puts the pictures: $FEDUMM_DEPS, else the user's cache folder.
std::string DefaultDataFolder() {
  const auto variable = [](const char* name) {
    const char* const value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  const std::string deps = variable("FEDUMM_DEPS");
  if (!deps.empty()) return deps + "/easy_vqa/data";
  const std::string cache = variable("XDG_CACHE_HOME");
  return (cache.empty() ? variable("HOME") + "/.cache" : cache) + "/fedumm/deps/easy_vqa/data";
}

absl::StatusOr<std::shared_ptr<const EasyVqa>> LoadData(const ConfigRecord& settings) {
  std::string folder = TextOr(settings, "data.folder", "");
  if (folder.empty()) folder = DefaultDataFolder();
  absl::StatusOr<EasyVqa> data = EasyVqa::Load(folder, NumberOr(settings, "data.negated", 0) != 0);
  if (absl::IsNotFound(data.status())) {
    return absl::NotFoundError(absl::StrCat(data.status().message(),
                                            "; scripts/setup.sh fetches the pictures, or name "
                                            "their folder with --data or data.folder"));
  }
  FEDUMM_RETURN_IF_ERROR(data.status());
  return std::make_shared<const EasyVqa>(*std::move(data));
}

TaskInfo InfoOf(const std::string& task) {
  TaskInfo info{.name = task,
                .title = task == kVqa ? "Answering" : "Drawing",
                .metric = task + "-accuracy",
                .metric_title = "right",
                .part_metric = task + "-accuracy-new",
                .part_title = "new concepts",
                .count_metric = task + "-num-examples",
                .defaults = task == kVqa ? kVqaDefaults : kDrawDefaults};
  info.holding_title = task == kVqa ? "questions by answer" : "pictures by colour";
  return info;
}

absl::StatusOr<std::string> PngOf(Picture picture) {
  return EncodePng(
      {.width = kPictureSize, .height = kPictureSize, .pixels = {picture.begin(), picture.end()}});
}

std::string Names(std::span<const std::string_view> names) {
  return absl::StrJoin(names, ", ", [](std::string* out, std::string_view name) {
    absl::StrAppend(out, Text(name));
  });
}

// The colour and the shape that a prompt names, in any words: the model draws nothing else.
absl::StatusOr<Concept> ParsePrompt(const std::string& prompt) {
  Concept wanted;
  for (const absl::string_view word : absl::StrSplit(prompt, absl::ByAnyChar(" \t\n,.;:!?\"'"))) {
    for (size_t i = 0; i < kColors.size(); ++i) {
      if (word == Text(kColors[i])) wanted.color = static_cast<int>(i);
    }
    for (size_t i = 0; i < kShapes.size(); ++i) {
      if (word == Text(kShapes[i])) wanted.shape = static_cast<int>(i);
    }
  }
  if (wanted.known()) return wanted;
  return absl::InvalidArgumentError(absl::StrCat("the prompt '", prompt, "' must name a colour (",
                                                 Names(kColors), ") and a shape (", Names(kShapes),
                                                 ")"));
}

class EasyVqaWorld final : public LabelledWorld {
 public:
  static absl::StatusOr<std::unique_ptr<World>> Load(const ConfigRecord& settings,
                                                     std::shared_ptr<const EasyVqa> data) {
    FEDUMM_ASSIGN_OR_RETURN(std::unique_ptr<DemoWorld> demo,
                            DemoWorld::Load(TextOr(settings, "model.checkpoint", ""), *data));
    return std::unique_ptr<World>(new EasyVqaWorld(settings, std::move(data), std::move(demo)));
  }

  WorldInfo Info() const override {
    WorldInfo info;
    for (const std::string& task : tasks_) info.tasks.push_back(InfoOf(task));
    if (NumberOr(settings_, "data.balanced-batches", 1) != 0) {
      info.notes.emplace_back(
          "Batches of drawings are balanced by colour in every training (data.balanced-batches), a "
          "remedy for the clients' skewed shares.");
    }
    info.notes.emplace_back(kFrozenModelHasSeen);
    info.notes.emplace_back(
        "At the sizes of a real 8B model an adapter (rank 16, all linear layers of the "
        "decoder) is some 240 times smaller than the model.");
    return info;
  }

  absl::StatusOr<std::vector<Sample>> Samples() override {
    std::vector<Sample> samples;
    for (const std::string& name : tasks_) {
      FEDUMM_RETURN_IF_ERROR(name == kVqa ? AddQuestions(samples) : AddDrawings(samples));
    }
    return samples;
  }

  absl::StatusOr<std::string> Generate(const GenerateRequest& options) override {
    FEDUMM_ASSIGN_OR_RETURN(const Concept wanted, ParsePrompt(options.prompt));
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<Drawing> drawings,
                            demo_->Draw({.per_prompt = 1,
                                         .steps = options.steps,
                                         .guidance = options.guidance,
                                         .seed = options.seed}));
    for (const Drawing& drawing : drawings) {
      if (drawing.wanted == wanted) return PngOf(drawing.pixels);
    }
    return absl::InternalError("the model's prompts lack this one");
  }

  absl::StatusOr<std::unique_ptr<World>> Clone() override { return Load(settings_, data_); }

 private:
  EasyVqaWorld(const ConfigRecord& settings, std::shared_ptr<const EasyVqa> data,
               std::unique_ptr<DemoWorld> demo)
      : LabelledWorld(settings), data_(std::move(data)), demo_(std::move(demo)) {}

  UnifiedModel& model() const override { return demo_->model(); }

  std::vector<std::string> LabelsOf(const std::string& task) const override {
    if (task == kDraw) return demo_->draw_labels();
    if (TextOr(settings_, "data.label", "") != "question-type") return demo_->vqa_labels();
    std::vector<std::string> types;
    for (const int64_t i : data_->train.balanced) {
      types.push_back(absl::StrCat(
          "type ", static_cast<int>(data_->train.questions[static_cast<size_t>(i)].type)));
    }
    return types;
  }

  absl::StatusOr<std::unique_ptr<Task>> NewTask(const std::string& task, std::vector<int64_t> share,
                                                Judging judging) const override {
    if (task == kVqa) {
      return demo_->NewVqaTask(std::move(share), judging.stride, std::move(judging.own));
    }
    // The evaluations between the first and the last one draw each prompt once.
    return demo_->NewDrawTask(
        std::move(share),
        {.per_prompt = judging.stride > 1 ? 1
                                          : static_cast<int64_t>(NumberOr(
                                                settings_, "evaluate.drawings-per-prompt", 1))},
        NumberOr(settings_, "data.balanced-batches", 1) != 0, std::move(judging.own));
  }

  // Questions from all over the test set; two thirds on new concepts.
  absl::Status AddQuestions(std::vector<Sample>& samples) {
    const EasyVqaSplit& test = data_->test;
    std::vector<int64_t> questions;
    for (size_t i = 0; i < kNumQuestionSamples; ++i) {
      for (size_t j = i * test.balanced.size() / kNumQuestionSamples; j < test.balanced.size();
           ++j) {
        if (test.questions[static_cast<size_t>(test.balanced[j])].is_new == (i % 3 != 0)) {
          questions.push_back(test.balanced[j]);
          break;
        }
      }
    }
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<std::string> answers, demo_->Answer(questions));
    for (size_t i = 0; i < questions.size(); ++i) {
      const Question& question = test.questions[static_cast<size_t>(questions[i])];
      FEDUMM_ASSIGN_OR_RETURN(std::string png, PngOf(test.picture(question.picture)));
      samples.push_back({.task = kVqa,
                         .prompt = question.text,
                         .png = std::move(png),
                         .truth = question.answer,
                         .answer = answers[i],
                         .right = answers[i] == question.answer});
    }
    return absl::OkStatus();
  }

  // One drawing of each prompt. Equal seeds: the same noise before and after.
  absl::Status AddDrawings(std::vector<Sample>& samples) {
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<Drawing> drawings,
                            demo_->Draw({.per_prompt = 1, .seed = 1}));
    for (const Drawing& drawing : drawings) {
      FEDUMM_ASSIGN_OR_RETURN(std::string png, PngOf(drawing.pixels));
      samples.push_back({.task = kDraw,
                         .prompt = absl::StrCat(
                             "draw a ", Text(kColors[static_cast<size_t>(drawing.wanted.color)]),
                             " ", Text(kShapes[static_cast<size_t>(drawing.wanted.shape)])),
                         .answer_png = std::move(png),
                         .right = drawing.right()});
    }
    return absl::OkStatus();
  }

  const std::shared_ptr<const EasyVqa> data_;
  const std::unique_ptr<DemoWorld> demo_;  // uses data_
};

}  // namespace

std::vector<Setting> EasyVqaSettings() {
  std::vector<Setting> settings = {
      {.key = "model.checkpoint",
       .default_value = "configs/tiny",
       .help = "folder with config.json, tokenizer.json and model.safetensors"},
      {.key = "data.folder",
       .default_value = "",
       .help = "the data folder of the easy-vqa package; empty: where scripts/setup.sh put it"},
      {.key = "data.negated",
       .default_value = false,
       .help = "add questions with a negation, such as 'is there not a red shape?'"},
      {.key = "data.balanced-batches",
       .default_value = true,
       .help = "a batch of drawings has as many of each colour that the client holds, whatever its "
               "share is like"},
      {.key = "data.label",
       .default_value = "answer",
       .help = "what questions are dealt to clients by; pictures go by colour",
       .choices = {"answer", "question-type"}},
  };
  const std::vector<Setting> tasks = {
      {.key = "train.tasks",
       .default_value = "vqa,draw",
       .help = "answering, drawing, or both",
       .choices = {"vqa", "draw", "vqa,draw"}},
      {.key = "evaluate.drawings-per-prompt",
       .default_value = int64_t{16},
       .help = "of the first and the last evaluation; those between draw one",
       .min = 1,
       .max = 1000},
  };
  for (const auto& more : {ShareSettings(), tasks, TaskSettings(kVqa, kVqaDefaults),
                           TaskSettings(kDraw, kDrawDefaults)}) {
    settings.insert(settings.end(), more.begin(), more.end());
  }
  return settings;
}

absl::StatusOr<std::unique_ptr<World>> LoadEasyVqaWorld(const ConfigRecord& settings) {
  FEDUMM_ASSIGN_OR_RETURN(std::shared_ptr<const EasyVqa> data, LoadData(settings));
  return EasyVqaWorld::Load(settings, std::move(data));
}

absl::Status PretrainEasyVqa(const ConfigRecord& settings,
                             const std::function<void(const PretrainStep&)>& progress) {
  return Pretrain(TextOr(settings, "model.checkpoint", ""), [&](const PretrainProgress& step) {
    progress({step.stage, step.step, step.steps, step.loss});
  });
}

}  // namespace fedumm::model
