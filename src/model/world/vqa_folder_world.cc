#include "model/world/vqa_folder_world.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/checkpoint.h"
#include "fedumm/model/client.h"
#include "fedumm/model/device.h"
#include "fedumm/model/image.h"
#include "fedumm/model/latents.h"
#include "fedumm/model/tokenizer.h"
#include "fedumm/model/vqa_folder.h"
#include "model/tasks/answering.h"
#include "model/tasks/caption_drawing.h"
#include "model/tasks/pixel_codec.h"
#include "model/world/labelled_world.h"
#include "model/world/shares.h"

namespace fedumm::model {
namespace {

constexpr const char* kVqa = "vqa";
constexpr const char* kDraw = "draw";
constexpr const char* kVqaV2 = "vqa-v2";
constexpr int64_t kVqaV2TrainQuestions = 443'757;
constexpr int64_t kVqaV2TestQuestions = 214'354;
constexpr int64_t kNumSamples = 12;

// A training or held-out subset, ready for the model.
struct Subset {
  VqaFolder folder;
  TokenizedQuestions questions;
  std::vector<std::vector<int64_t>> prompts;  // of the captions

  QuestionSource question_source() const { return {folder, questions}; }
  CaptionSource caption_source() const { return {folder, prompts}; }
};

// What clones of a world share.
struct FolderData {
  AnsweringOptions options;
  BackboneConfig config;
  StateDict weights;  // models share the tensors: they are frozen
  std::optional<PixelCodec> codec;
  std::optional<LatentFolder> latents;
  PromptFormat format;
  Subset train;
  Subset test;
};

bool HasTask(const ConfigRecord& settings, const char* task) {
  const std::vector<std::string> tasks = TasksOf(settings);
  return std::find(tasks.begin(), tasks.end(), task) != tasks.end();
}

int64_t IntegerOf(const ConfigRecord& settings, const char* key) {
  return static_cast<int64_t>(NumberOr(settings, key, 0));
}

AnsweringOptions OptionsOf(const ConfigRecord& settings, const VisionConfig& vision) {
  AnsweringOptions options;
  options.processor = ProcessorFor(vision, IntegerOf(settings, "data.min-pixels"),
                                   IntegerOf(settings, "data.max-pixels"));
  options.reading.apply_exif_orientation =
      NumberOr(settings, "data.apply-exif-orientation", 0) != 0;
  options.threads = static_cast<int>(IntegerOf(settings, "data.threads"));
  options.batches_by_length = IntegerOf(settings, "data.batches-by-length");
  options.generation.max_new_tokens = IntegerOf(settings, "data.max-answer-tokens");
  return options;
}

absl::StatusOr<Subset> LoadSubset(const ConfigRecord& settings, const char* subset_key,
                                  const PromptFormat& format, int64_t n_query, bool with_answers) {
  const auto text = [&](const char* key) { return TextOr(settings, key, ""); };
  VqaFolderOptions options = {.folder = text("data.folder"),
                              .subset = text(subset_key),
                              .questions_file = text("data.questions-file"),
                              .annotations_file = text("data.annotations-file"),
                              .image_name = text("data.picture-file")};
  if (HasTask(settings, kDraw)) options.captions_file = text("data.captions-file");
  Subset subset;
  FEDUMM_ASSIGN_OR_RETURN(subset.folder, VqaFolder::Load(options));
  FEDUMM_ASSIGN_OR_RETURN(subset.questions,
                          Tokenize(format, subset.folder.questions(), with_answers));
  FEDUMM_ASSIGN_OR_RETURN(subset.prompts,
                          TokenizeCaptions(format, n_query, subset.folder.captions()));
  return subset;
}

absl::Status CheckSettings(const ConfigRecord& settings) {
  if (TextOr(settings, "data.folder", "").empty()) {
    return absl::InvalidArgumentError(
        "'data.folder' must name the folder with the pictures and questions");
  }
  if (TextOr(settings, "data.annotations-file", "").empty()) {
    return absl::InvalidArgumentError(
        "'data.annotations-file' must name the answers that are trained on and judged by");
  }
  if (HasTask(settings, kDraw) && TextOr(settings, "data.captions-file", "").empty()) {
    return absl::InvalidArgumentError(
        "the task 'draw' needs captions: 'data.captions-file' must name them");
  }
  return absl::OkStatus();
}

// Takes the codec out of the weights, if there is one.
absl::StatusOr<std::optional<PixelCodec>> TakeCodec(const BackboneConfig& config,
                                                    StateDict& weights) {
  if (!config.dit.has_value() || !weights.contains("pixel_codec.mean")) return std::nullopt;
  // It works on pictures, which are on the host.
  for (auto& [name, tensor] : weights) {
    if (name.starts_with("pixel_codec.")) tensor = tensor.to(at::kCPU, at::kFloat);
  }
  FEDUMM_ASSIGN_OR_RETURN(PixelCodec codec, PixelCodec::TakeFrom(weights, config.dit->in_channels));
  return codec;
}

// The latents that the settings name, if they do; they must be what the DiT draws.
absl::StatusOr<std::optional<LatentFolder>> OpenLatents(const ConfigRecord& settings,
                                                        const BackboneConfig& config) {
  const std::string folder = TextOr(settings, "data.latents-folder", "");
  if (folder.empty() || !HasTask(settings, kDraw) || !config.dit.has_value()) return std::nullopt;
  FEDUMM_ASSIGN_OR_RETURN(LatentFolder latents, LatentFolder::Open(folder));
  const std::vector<int64_t> wanted = {config.dit->in_channels, config.dit->input_size,
                                       config.dit->input_size};
  if (latents.shape() == wanted) return latents;
  return absl::InvalidArgumentError(
      absl::StrCat("the latents in ", folder, " are [", absl::StrJoin(latents.shape(), ", "),
                   "]; the model draws [", absl::StrJoin(wanted, ", "), "]"));
}

absl::StatusOr<std::shared_ptr<const FolderData>> LoadData(const ConfigRecord& settings) {
  FEDUMM_RETURN_IF_ERROR(CheckSettings(settings));
  const std::string checkpoint = TextOr(settings, "model.checkpoint", "");
  LoadOptions options{.extra_prefix = "pixel_codec."};
  FEDUMM_ASSIGN_OR_RETURN(options.device, OpenDevice(TextOr(settings, "model.device", "cpu")));
  FEDUMM_ASSIGN_OR_RETURN(options.dtype, WeightType(TextOr(settings, "model.dtype", "auto")));
  FEDUMM_ASSIGN_OR_RETURN(Checkpoint loaded, LoadCheckpoint(checkpoint, options));
  BackboneConfig& config = loaded.config;
  StateDict& weights = loaded.weights;
  FEDUMM_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::Load(checkpoint));
  FEDUMM_ASSIGN_OR_RETURN(
      PromptFormat format,
      PromptFormat::Create(std::move(tokenizer), config, TextOr(settings, "model.prompt", "auto"),
                           TextOr(settings, "data.instruction", "")));
  FEDUMM_ASSIGN_OR_RETURN(Subset train,
                          LoadSubset(settings, "data.train-subset", format, config.n_query, true));
  FEDUMM_ASSIGN_OR_RETURN(Subset test,
                          LoadSubset(settings, "data.test-subset", format, config.n_query, false));
  FEDUMM_ASSIGN_OR_RETURN(std::optional<PixelCodec> codec, TakeCodec(config, weights));
  FEDUMM_ASSIGN_OR_RETURN(std::optional<LatentFolder> latents, OpenLatents(settings, config));
  if (HasTask(settings, kDraw) && !codec.has_value() && !latents.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the task 'draw' needs a checkpoint with a DiT, and latents of the pictures: ", checkpoint,
        config.dit.has_value() ? " has no tensors pixel_codec.* that make them; name those of "
                                 "`fedumm encode` by data.latents-folder"
                               : " has no DiT"));
  }
  return std::make_shared<const FolderData>(
      FolderData{OptionsOf(settings, config.vision), config, std::move(weights), std::move(codec),
                 std::move(latents), std::move(format), std::move(train), std::move(test)});
}

class VqaFolderWorld final : public LabelledWorld {
 public:
  static absl::StatusOr<std::unique_ptr<World>> Create(const ConfigRecord& settings,
                                                       std::shared_ptr<const FolderData> data) {
    FEDUMM_ASSIGN_OR_RETURN(std::unique_ptr<UnifiedModel> model,
                            UnifiedModel::Create(data->config, data->weights));
    return std::unique_ptr<World>(new VqaFolderWorld(settings, std::move(data), std::move(model)));
  }

  WorldInfo Info() const override {
    WorldInfo info;
    for (const std::string& task : tasks_) info.tasks.push_back(InfoOf(task));
    info.notes.push_back(
        absl::StrCat("Answers are greedy and judged by VQA v2's official accuracy on ",
                     data_->test.folder.questions().size(), " held-out questions; training holds ",
                     data_->train.folder.questions().size(), "."));
    const int64_t train = std::ssize(data_->train.folder.questions());
    const int64_t test = std::ssize(data_->test.folder.questions());
    if (TextOr(settings_, "world.kind", "") == kVqaV2 &&
        (train != kVqaV2TrainQuestions || test != kVqaV2TestQuestions)) {
      info.notes.push_back(
          absl::StrCat("This is a part of VQA v2, which has ", kVqaV2TrainQuestions,
                       " questions in train2014 and ", kVqaV2TestQuestions,
                       " in val2014: its figures are not those of the benchmark."));
    }
    if (const double part = NumberOr(settings_, "data.client-test-share", 0); part > 0) {
      info.notes.push_back(
          absl::StrCat("Clients are judged on examples of their own that they do not train on (",
                       part, " of them), the server on the held-out set."));
    }
    if (HasTask(settings_, kDraw)) {
      info.notes.emplace_back(
          "Drawing is judged by how often the model explains a held-out picture better by its own "
          "caption than by another one; half of them by chance.");
    }
    return info;
  }

  // Questions from all over the held-out set.
  absl::StatusOr<std::vector<Sample>> Samples() override {
    const VqaFolder& folder = data_->test.folder;
    std::vector<Sample> samples;
    if (!HasTask(settings_, kVqa)) return samples;
    const int64_t count = std::ssize(folder.questions());
    std::vector<int64_t> asked;
    for (int64_t i = 0; i < std::min(count, kNumSamples); ++i) {
      asked.push_back(i * count / std::min(count, kNumSamples));
    }
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<std::string> answers,
                            AnswerQuestions(*model_, data_->format, data_->options,
                                            data_->test.question_source(), asked));
    for (size_t i = 0; i < asked.size(); ++i) {
      const VqaQuestion& question = folder.questions()[static_cast<size_t>(asked[i])];
      FEDUMM_ASSIGN_OR_RETURN(const Image picture, ReadImage(folder.PicturePath(question.image_id),
                                                             data_->options.reading));
      FEDUMM_ASSIGN_OR_RETURN(std::string png, EncodePng(picture));
      samples.push_back({.task = kVqa,
                         .prompt = question.question,
                         .png = std::move(png),
                         .truth = question.multiple_choice_answer,
                         .answer = answers[i],
                         .right = VqaAccuracy(answers[i], question.answers) > 0.5});
    }
    return samples;
  }

  absl::StatusOr<std::string> Generate(const GenerateRequest& options) override {
    if (!data_->codec.has_value()) {
      return absl::UnimplementedError(
          "this checkpoint cannot draw: it has no DiT, or no tensors pixel_codec.*");
    }
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> prompt,
                            data_->format.DrawPrompt(options.prompt));
    FEDUMM_ASSIGN_OR_RETURN(const Image picture,
                            DrawPicture(drawer(), prompt, options.seed,
                                        {.steps = options.steps, .guidance = options.guidance}));
    return EncodePng(picture);
  }

  absl::StatusOr<std::unique_ptr<World>> Clone() override { return Create(settings_, data_); }

 private:
  VqaFolderWorld(const ConfigRecord& settings, std::shared_ptr<const FolderData> data,
                 std::unique_ptr<UnifiedModel> model)
      : LabelledWorld(settings), data_(std::move(data)), model_(std::move(model)) {}

  UnifiedModel& model() const override { return *model_; }

  static TaskInfo InfoOf(const std::string& task) {
    const bool answering = task == kVqa;
    return {.name = task,
            .title = answering ? "Answering" : "Drawing",
            .metric = task + "-accuracy",
            .metric_title = answering ? "VQA accuracy" : "caption matches",
            .count_metric = task + "-num-examples",
            .holding_title = answering ? "questions by label" : "captions",
            .defaults = answering ? kAnsweringDefaults : kCaptionDrawingDefaults};
  }

  std::vector<std::string> LabelsOf(const std::string& task) const override {
    std::vector<std::string> labels;
    if (task == kDraw) {
      if (TextOr(settings_, "data.caption-label", "text") == "question") return QuestionLabels();
      for (const PictureCaption& caption : data_->train.folder.captions()) {
        labels.push_back(caption.text);
      }
      return labels;
    }
    for (const VqaQuestion& question : data_->train.folder.questions()) {
      labels.push_back(LabelOf(question));
    }
    return labels;
  }

  const std::string& LabelOf(const VqaQuestion& question) const {
    const std::string label = TextOr(settings_, "data.label", "answer");
    return label == "question-type" ? question.question_type
           : label == "answer-type" ? question.answer_type
                                    : question.multiple_choice_answer;
  }

  // Each caption's: that of the first question about its picture, empty if there is none.
  std::vector<std::string> QuestionLabels() const {
    std::unordered_map<int64_t, std::string> label_of;
    for (const VqaQuestion& question : data_->train.folder.questions()) {
      label_of.try_emplace(question.image_id, LabelOf(question));
    }
    std::vector<std::string> labels;
    for (const PictureCaption& caption : data_->train.folder.captions()) {
      labels.push_back(label_of[caption.image_id]);
    }
    return labels;
  }

  Drawer drawer() const { return {*model_, *data_->codec}; }

  absl::StatusOr<std::unique_ptr<Task>> NewTask(const std::string& task, std::vector<int64_t> share,
                                                Judging judging) const override {
    const Subset& judged = judging.own.has_value() ? data_->train : data_->test;
    if (task == kDraw) {
      std::unique_ptr<LatentSource> latents =
          data_->latents.has_value()
              ? NewStoredLatents(*data_->latents)
              : NewCodecLatents(*data_->codec, data_->options.reading, data_->options.threads);
      return NewCaptionDrawingTask(*model_, std::move(latents), data_->train.caption_source(),
                                   std::move(share), judged.caption_source(),
                                   judging.Indices(std::ssize(judged.folder.captions())),
                                   data_->options.batches_by_length);
    }
    return NewAnsweringTask(*model_, data_->format, data_->options, data_->train.question_source(),
                            std::move(share), judged.question_source(),
                            judging.Indices(std::ssize(judged.folder.questions())));
  }

  const std::shared_ptr<const FolderData> data_;
  const std::unique_ptr<UnifiedModel> model_;
};

std::vector<Setting> FileSettings() {
  const VqaFolderOptions names;
  return {
      {.key = "data.folder",
       .default_value = "",
       .help = "folder with the pictures and VQA v2's files; the names below are relative to it"},
      {.key = "data.train-subset",
       .default_value = "train2014",
       .help = "the subset to train on; '{subset}' in the names below"},
      {.key = "data.test-subset",
       .default_value = "val2014",
       .help = "the subset whose questions are held out"},
      {.key = "data.questions-file",
       .default_value = names.questions_file,
       .help = "a subset's questions"},
      {.key = "data.annotations-file",
       .default_value = names.annotations_file,
       .help = "a subset's answers, those of ten annotators for each question"},
      {.key = "data.captions-file",
       .default_value = "",
       .help = "a subset's captions, as COCO's JSON or as JSON Lines; 'draw' needs them"},
      {.key = "data.latents-folder",
       .default_value = "",
       .help = "the pictures' latents, as `fedumm encode` writes them; empty: the checkpoint's own "
               "codec makes them"},
      {.key = "data.picture-file",
       .default_value = names.image_name,
       .help = "a picture: '{id}' is its image_id, '{id:12}' that with 12 digits; PNG or JPEG by "
               "content"},
  };
}

std::vector<Setting> InputSettings() {
  return {
      {.key = "data.instruction",
       .default_value = "",
       .help = "text after each question, such as how long an answer is to be"},
      {.key = "data.label",
       .default_value = "answer",
       .help = "what questions are dealt to clients by",
       .choices = {"answer", "question-type", "answer-type"}},
      {.key = "data.caption-label",
       .default_value = "text",
       .help = "what captions are dealt by: their text, or the label of the first question about "
               "the same picture, for sets where nearly every caption is another text",
       .choices = {"text", "question"}},
      {.key = "data.min-pixels",
       .default_value = int64_t{3136},
       .help = "pictures with fewer pixels are enlarged",
       .min = 1,
       .max = 0x1p28},
      {.key = "data.max-pixels",
       .default_value = int64_t{1'003'520},
       .help = "pictures with more pixels are reduced",
       .min = 1,
       .max = 0x1p28},
      {.key = "data.apply-exif-orientation",
       .default_value = false,
       .help = "turn pictures as their camera says; VQA v2's evaluation does not"},
      {.key = "data.threads",
       .default_value = int64_t{2},
       .help = "threads that decode and resize pictures",
       .min = 1,
       .max = 256},
      {.key = "data.batches-by-length",
       .default_value = int64_t{1},
       .help = "batches that are drawn together and dealt by the lengths of their texts, so that "
               "rows need little padding; 1: as they are drawn",
       .min = 1,
       .max = 10000},
      {.key = "data.max-answer-tokens",
       .default_value = int64_t{16},
       .help = "an answer ends after so many tokens",
       .min = 1,
       .max = 4096},
  };
}

bool IsFixedInVqaV2(std::string_view key) {
  constexpr std::array<std::string_view, 6> kFixed = {
      "data.train-subset",     "data.test-subset",  "data.questions-file",
      "data.annotations-file", "data.picture-file", "data.label"};
  return std::find(kFixed.begin(), kFixed.end(), key) != kFixed.end();
}

}  // namespace

std::vector<Setting> VqaFolderSettings() {
  std::vector<Setting> settings = {
      {.key = "model.checkpoint",
       .default_value = "configs/tiny",
       .help = "folder with config.json, tokenizer.json and model.safetensors or its shards"},
      {.key = "model.dtype",
       .default_value = "auto",
       .help = "of the frozen weights; the adapters are float32. auto: that of the files",
       .choices = {"auto", "float32", "bfloat16", "float16"}},
      {.key = "model.device",
       .default_value = "cpu",
       .help = "cpu, cuda, cuda:1, or auto: cuda where there is one"},
      {.key = "model.prompt",
       .default_value = "auto",
       .help = "form of a prompt: Qwen2.5-VL's chat template, or picture, question and answer "
               "without it; auto: chat if the tokenizer has <|im_start|>",
       .choices = {"auto", "chat", "plain"}},
  };
  const std::vector<Setting> tasks = {{.key = "train.tasks",
                                       .default_value = "vqa",
                                       .help = "answering, drawing from captions, or both",
                                       .choices = {"vqa", "draw", "vqa,draw"}}};
  for (const auto& part :
       {FileSettings(), InputSettings(), ShareSettings(), tasks,
        TaskSettings(kVqa, kAnsweringDefaults), TaskSettings(kDraw, kCaptionDrawingDefaults)}) {
    settings.insert(settings.end(), part.begin(), part.end());
  }
  return settings;
}

absl::StatusOr<std::unique_ptr<World>> LoadVqaFolderWorld(const ConfigRecord& settings) {
  FEDUMM_ASSIGN_OR_RETURN(std::shared_ptr<const FolderData> data, LoadData(settings));
  return VqaFolderWorld::Create(settings, std::move(data));
}

// The benchmark's files have the names that are the defaults, and its questions are dealt by
// multiple_choice_answer: there is no choice.
std::vector<Setting> VqaV2Settings() {
  std::vector<Setting> settings = VqaFolderSettings();
  std::erase_if(settings, [](const Setting& setting) { return IsFixedInVqaV2(setting.key); });
  return settings;
}

absl::StatusOr<std::unique_ptr<World>> LoadVqaV2World(const ConfigRecord& settings) {
  ConfigRecord with_names = settings;
  for (const Setting& setting : VqaFolderSettings()) {
    if (IsFixedInVqaV2(setting.key)) with_names.Set(setting.key, setting.default_value);
  }
  return LoadVqaFolderWorld(with_names);
}

}  // namespace fedumm::model
