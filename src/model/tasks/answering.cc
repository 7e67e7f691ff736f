#include "model/tasks/answering.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "model/data/picture_loader.h"
#include "model/guarded.h"
#include "model/tasks/batches.h"

namespace fedumm::model {
namespace {

// Names of a batch's tensors. "picture" has each row's place among the pictures; one that several
// rows ask about is there once.
constexpr const char* kIds = "input_ids";
constexpr const char* kFrom = "from";  // places in the flattened rows that predict `targets`
constexpr const char* kTargets = "targets";
constexpr const char* kPixels = "pixels";
constexpr const char* kGrids = "grids";  // [pictures, 3]
constexpr const char* kPicture = "picture";

at::Tensor ToTensor(std::span<const int64_t> values) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<int64_t>());
  return tensor;
}

std::span<const int64_t> ValuesOf(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<int64_t>(), static_cast<size_t>(tensor.numel())};
}

std::vector<ImageGrid> GridsOf(const Batch& batch) {
  const std::span<const int64_t> values = ValuesOf(batch.at(kGrids));
  std::vector<ImageGrid> grids;
  for (size_t i = 0; i < values.size(); i += 3) {
    grids.push_back({values[i], values[i + 1], values[i + 2]});
  }
  return grids;
}

// The pictures of some questions, each once, as a batch's "pixels", "grids" and "picture".
struct LoadedPictures {
  Batch batch;
  std::vector<int64_t> tokens;  // of each question's picture
};

absl::StatusOr<LoadedPictures> LoadPictures(const AnsweringOptions& options, QuestionSource source,
                                            std::span<const int64_t> indices) {
  std::vector<std::string> paths;
  std::map<int64_t, int64_t> place_of;  // image_id -> index into `paths`
  std::vector<int64_t> picture;
  for (const int64_t i : indices) {
    const int64_t id = source.folder.questions()[static_cast<size_t>(i)].image_id;
    const auto [it, added] = place_of.try_emplace(id, static_cast<int64_t>(paths.size()));
    if (added) paths.push_back(source.folder.PicturePath(id));
    picture.push_back(it->second);
  }
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<ImagePatches> patches,
                          LoadPatches(paths, options.processor, options.reading, options.threads));
  int64_t rows = 0;
  std::vector<int64_t> grids;
  for (const ImagePatches& one : patches) {
    rows += one.num_rows;
    grids.insert(grids.end(), one.grid_thw.begin(), one.grid_thw.end());
  }
  at::Tensor pixels = at::empty({rows, patches.front().row_size}, at::kFloat);
  float* out = pixels.mutable_data_ptr<float>();
  for (const ImagePatches& one : patches) {
    out = std::copy(one.values.begin(), one.values.end(), out);
  }
  LoadedPictures loaded;
  for (const int64_t i : picture) {
    loaded.tokens.push_back(
        patches[static_cast<size_t>(i)].num_tokens(options.processor.merge_size));
  }
  loaded.batch[kPixels] = std::move(pixels);
  loaded.batch[kGrids] = ToTensor(grids).view({-1, 3});
  loaded.batch[kPicture] = ToTensor(picture);
  return loaded;
}

// Each row's image tokens, one after the other, and the rows' grids.
struct RowImages {
  at::Tensor tokens;
  std::vector<ImageGrid> grids;
};

absl::StatusOr<RowImages> EncodeRows(const UnifiedModel& model, const Batch& batch) {
  const std::vector<ImageGrid> grids = GridsOf(batch);
  FEDUMM_ASSIGN_OR_RETURN(const at::Tensor encoded, model.EncodeImages(batch.at(kPixels), grids));
  std::vector<int64_t> begin = {0};
  for (const ImageGrid& grid : grids) {
    begin.push_back(begin.back() + grid.t * grid.h * grid.w / model.config().vision.merge_area());
  }
  RowImages rows;
  std::vector<at::Tensor> parts;
  for (const int64_t i : ValuesOf(batch.at(kPicture))) {
    const size_t place = static_cast<size_t>(i);
    parts.push_back(encoded.slice(0, begin[place], begin[place + 1]));
    rows.grids.push_back(grids[place]);
  }
  rows.tokens = at::cat(parts);
  return rows;
}

absl::StatusOr<at::Tensor> AnswerLoss(const UnifiedModel& model, const Batch& batch) {
  FEDUMM_ASSIGN_OR_RETURN(const RowImages images, EncodeRows(model, batch));
  const at::Tensor& ids = batch.at(kIds);
  FEDUMM_ASSIGN_OR_RETURN(const at::Tensor embeds, model.EmbedWithImages(ids, images.tokens));
  FEDUMM_ASSIGN_OR_RETURN(const UnifiedModel::Positions positions,
                          model.PositionsOf(ids, {}, images.grids));
  const at::Tensor hidden = model.Decode(embeds, positions.ids);
  const at::Tensor said = hidden.flatten(0, 1).index_select(0, batch.at(kFrom));
  return at::cross_entropy_loss(model.Logits(said).to(at::kFloat), batch.at(kTargets));
}

absl::StatusOr<std::vector<std::vector<int64_t>>> GreedyIds(const UnifiedModel& model,
                                                            const PromptFormat& format,
                                                            const AnsweringOptions& options,
                                                            QuestionSource source,
                                                            std::span<const int64_t> indices) {
  FEDUMM_ASSIGN_OR_RETURN(const LoadedPictures pictures, LoadPictures(options, source, indices));
  std::vector<std::vector<int64_t>> rows;
  size_t width = 0;
  for (size_t row = 0; row < indices.size(); ++row) {
    rows.push_back(format.Prompt(source.tokens.questions[static_cast<size_t>(indices[row])],
                                 pictures.tokens[row]));
    width = std::max(width, rows.back().size());
  }
  const auto shape = {static_cast<int64_t>(rows.size()), static_cast<int64_t>(width)};
  Prompt prompt = {.ids = at::full(shape, format.end_id(), at::kLong),
                   .attention_mask = at::zeros(shape, at::kLong)};
  for (size_t row = 0; row < rows.size(); ++row) {
    const size_t at = row * width + width - rows[row].size();  // padded on the left
    std::copy(rows[row].begin(), rows[row].end(), prompt.ids.mutable_data_ptr<int64_t>() + at);
    std::fill_n(prompt.attention_mask.mutable_data_ptr<int64_t>() + at, rows[row].size(), 1);
  }
  FEDUMM_ASSIGN_OR_RETURN(RowImages images, EncodeRows(model, pictures.batch));
  prompt.image_tokens = std::move(images.tokens);
  prompt.grids = std::move(images.grids);
  return model.Generate(
      prompt, {.max_new_tokens = options.max_answer_tokens, .stop_ids = {format.end_id()}});
}

// VQA v2's official accuracy, over all questions and by answer type.
class AccuracyByType {
 public:
  void Add(const VqaQuestion& question, const std::string& answer) {
    const double accuracy = VqaAccuracy(answer, question.answers);
    for (Mean* const mean : {&all_, &types_[question.answer_type]}) {
      mean->sum += accuracy;
      ++mean->count;
    }
  }
  MetricRecord Metrics(const std::string& task) const {
    MetricRecord metrics = {{task + "-accuracy", all_.Value()}};
    for (const auto& [type, mean] : types_) {
      if (type.empty()) continue;
      metrics.Set(absl::StrCat(task, "-accuracy-", absl::StrReplaceAll(type, {{"/", "-"}})),
                  mean.Value());
    }
    metrics.Set(task + "-num-examples", all_.count);
    return metrics;
  }

 private:
  struct Mean {
    double Value() const { return count == 0 ? 0 : sum / static_cast<double>(count); }
    double sum = 0;
    int64_t count = 0;
  };
  Mean all_;
  std::map<std::string, Mean> types_;
};

class AnsweringTask final : public Task {
 public:
  AnsweringTask(const UnifiedModel& model, const PromptFormat& format,
                const AnsweringOptions& options, QuestionSource train, std::vector<int64_t> shard,
                QuestionSource test, int64_t stride)
      : model_(model),
        format_(format),
        options_(options),
        train_(train),
        test_(test),
        batches_(std::move(shard)) {
    const int64_t count = std::ssize(test.folder.questions());
    for (int64_t i = 0; i < count; i += stride) asked_.push_back(i);
  }

  std::string name() const override { return "vqa"; }
  TaskDefaults defaults() const override { return kAnsweringDefaults; }
  bool Trains(std::string_view module_path) const override {
    return !module_path.starts_with("model.dit.");
  }
  int64_t num_examples() const override { return batches_.size(); }
  void Seed(uint64_t seed) override { batches_.Seed(seed); }

  absl::StatusOr<Batch> NextBatch(int64_t batch_size) override {
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> chosen, batches_.Next(batch_size));
    return Guarded([&]() -> absl::StatusOr<Batch> {
      FEDUMM_ASSIGN_OR_RETURN(LoadedPictures pictures, LoadPictures(options_, train_, chosen));
      AddRows(chosen, pictures);
      return std::move(pictures.batch);
    });
  }

  absl::StatusOr<at::Tensor> Loss(const Batch& batch) override {
    return Guarded([&] { return AnswerLoss(model_, batch); });
  }

  absl::StatusOr<MetricRecord> Evaluate() override {
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<std::string> answers,
                            AnswerQuestions(model_, format_, options_, test_, asked_));
    AccuracyByType accuracy;
    for (size_t i = 0; i < asked_.size(); ++i) {
      accuracy.Add(test_.folder.questions()[static_cast<size_t>(asked_[i])], answers[i]);
    }
    return accuracy.Metrics(name());
  }

 private:
  // The decoder's input and what it is to predict. A row's last token predicts nothing, so it is
  // left out; shorter rows are padded on the right, where no earlier token sees it.
  void AddRows(std::span<const int64_t> chosen, LoadedPictures& pictures) const {
    std::vector<std::vector<int64_t>> rows;
    std::vector<size_t> prompt_sizes;
    size_t width = 0;
    for (size_t row = 0; row < chosen.size(); ++row) {
      const size_t i = static_cast<size_t>(chosen[row]);
      rows.push_back(format_.Prompt(train_.tokens.questions[i], pictures.tokens[row]));
      prompt_sizes.push_back(rows.back().size());
      const std::vector<int64_t>& answer = train_.tokens.answers[i];
      rows.back().insert(rows.back().end(), answer.begin(), answer.end());
      width = std::max(width, rows.back().size() - 1);
    }
    std::vector<int64_t> ids(rows.size() * width, format_.end_id());
    std::vector<int64_t> from, targets;
    for (size_t row = 0; row < rows.size(); ++row) {
      std::copy(rows[row].begin(), rows[row].end() - 1, ids.begin() + row * width);
      for (size_t i = prompt_sizes[row]; i < rows[row].size(); ++i) {
        from.push_back(static_cast<int64_t>(row * width + i - 1));
        targets.push_back(rows[row][i]);
      }
    }
    pictures.batch[kIds] = ToTensor(ids).view({std::ssize(rows), static_cast<int64_t>(width)});
    pictures.batch[kFrom] = ToTensor(from);
    pictures.batch[kTargets] = ToTensor(targets);
  }

  const UnifiedModel& model_;
  const PromptFormat& format_;
  const AnsweringOptions& options_;
  const QuestionSource train_;
  const QuestionSource test_;
  Batches batches_;
  std::vector<int64_t> asked_;
};

}  // namespace

ImageProcessorOptions ProcessorFor(const VisionConfig& config, int64_t min_pixels,
                                   int64_t max_pixels) {
  return {.patch_size = config.patch_size,
          .merge_size = config.spatial_merge_size,
          .temporal_patch_size = config.temporal_patch_size,
          .min_pixels = min_pixels,
          .max_pixels = max_pixels};
}

absl::StatusOr<TokenizedQuestions> Tokenize(const PromptFormat& format,
                                            std::span<const VqaQuestion> questions,
                                            bool with_answers) {
  TokenizedQuestions tokens;
  for (const VqaQuestion& question : questions) {
    const auto in_question = [&](const absl::Status& status) {
      return absl::Status(status.code(),
                          absl::StrCat("question ", question.question_id, ": ", status.message()));
    };
    absl::StatusOr<std::vector<int64_t>> asked = format.Question(question.question);
    if (!asked.ok()) return in_question(asked.status());
    tokens.questions.push_back(*std::move(asked));
    if (!with_answers) continue;
    absl::StatusOr<std::vector<int64_t>> answered = format.Answer(question.multiple_choice_answer);
    if (!answered.ok()) return in_question(answered.status());
    tokens.answers.push_back(*std::move(answered));
  }
  return tokens;
}

absl::StatusOr<std::vector<std::string>> AnswerQuestions(const UnifiedModel& model,
                                                         const PromptFormat& format,
                                                         const AnsweringOptions& options,
                                                         QuestionSource source,
                                                         std::span<const int64_t> indices) {
  return Guarded([&]() -> absl::StatusOr<std::vector<std::string>> {
    const at::NoGradGuard no_grad;
    std::vector<std::string> answers;
    while (answers.size() < indices.size()) {
      const size_t count =
          std::min(indices.size() - answers.size(), static_cast<size_t>(options.evaluation_batch));
      FEDUMM_ASSIGN_OR_RETURN(
          const std::vector<std::vector<int64_t>> rows,
          GreedyIds(model, format, options, source, indices.subspan(answers.size(), count)));
      for (const std::vector<int64_t>& row : rows) answers.push_back(format.Decode(row));
    }
    return answers;
  });
}

std::unique_ptr<Task> NewAnsweringTask(const UnifiedModel& model, const PromptFormat& format,
                                       const AnsweringOptions& options, QuestionSource train,
                                       std::vector<int64_t> shard, QuestionSource test,
                                       int64_t stride) {
  return std::make_unique<AnsweringTask>(model, format, options, train, std::move(shard), test,
                                         stride);
}

}  // namespace fedumm::model
