#include "model/tasks/answering.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
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
#include "model/tasks/batch.h"
#include "model/tasks/batches.h"

namespace fedumm::model {
namespace {

// Names of a batch's tensors.
constexpr const char* kIds = "input_ids";         // [rows, width]
constexpr const char* kPositions = "positions";   // [3, rows, width]
constexpr const char* kPixels = "pixels";         // of each picture once
constexpr const char* kGrids = "grids";           // [pictures, 3]; stays on the host
constexpr const char* kImageFrom = "image_from";  // places among the encoded pictures' tokens of
constexpr const char* kImageRows = "image_rows";  // these places in the flattened rows
constexpr const char* kFrom = "from";  // places in the flattened rows that predict `targets`
constexpr const char* kTargets = "targets";

std::vector<ImageGrid> GridsOf(const Batch& batch) {
  const std::span<const int64_t> values = IndexValues(batch.at(kGrids));
  std::vector<ImageGrid> grids;
  for (size_t i = 0; i < values.size(); i += 3) {
    grids.push_back({values[i], values[i + 1], values[i + 2]});
  }
  return grids;
}

// The pictures of some questions, each once, as a batch's "pixels", "grids" and "image_from".
struct LoadedPictures {
  Batch batch;
  std::vector<int64_t> tokens;   // of each question's picture
  std::vector<ImageGrid> grids;  // of each question's picture
};

absl::StatusOr<LoadedPictures> LoadPictures(const AnsweringOptions& options,
                                            std::span<const PictureQuestion> asked) {
  std::vector<std::string> paths;
  std::map<std::string, size_t> place_of;  // index into `paths`
  std::vector<size_t> picture;
  for (const PictureQuestion& one : asked) {
    const auto [it, added] = place_of.try_emplace(one.picture, paths.size());
    if (added) paths.push_back(one.picture);
    picture.push_back(it->second);
  }
  FEDUMM_ASSIGN_OR_RETURN(
      const std::vector<ImagePatches> patches,
      LoadPatches(paths, options.processor, options.reading, options.threads, options.jpeg_again));
  int64_t rows = 0;
  std::vector<int64_t> grids, begin = {0};
  for (const ImagePatches& one : patches) {
    rows += one.num_rows;
    grids.insert(grids.end(), one.grid_thw.begin(), one.grid_thw.end());
    begin.push_back(begin.back() + one.num_tokens(options.processor.merge_size));
  }
  at::Tensor pixels = at::empty({rows, patches.front().row_size}, at::kFloat);
  float* out = pixels.mutable_data_ptr<float>();
  for (const ImagePatches& one : patches) {
    out = std::copy(one.values.begin(), one.values.end(), out);
  }
  LoadedPictures loaded;
  std::vector<int64_t> from;
  for (const size_t i : picture) {
    loaded.tokens.push_back(begin[i + 1] - begin[i]);
    loaded.grids.push_back({grids[3 * i], grids[3 * i + 1], grids[3 * i + 2]});
    for (int64_t token = begin[i]; token < begin[i + 1]; ++token) from.push_back(token);
  }
  loaded.batch[kPixels] = std::move(pixels);
  loaded.batch[kGrids] = IndexTensor(grids).view({-1, 3});
  loaded.batch[kImageFrom] = IndexTensor(from);
  return loaded;
}

// Each row's image tokens, one after the other. `grids` are those of the batch.
absl::StatusOr<at::Tensor> EncodeRows(const UnifiedModel& model, const Batch& on_device,
                                      std::span<const ImageGrid> grids) {
  FEDUMM_ASSIGN_OR_RETURN(const at::Tensor encoded,
                          model.EncodeImages(on_device.at(kPixels), grids));
  return encoded.index_select(0, on_device.at(kImageFrom));
}

absl::StatusOr<at::Tensor> AnswerLoss(const UnifiedModel& model, const Batch& on_host) {
  const std::vector<ImageGrid> grids = GridsOf(on_host);
  const Batch batch = ToDevice(on_host, model.device());
  FEDUMM_ASSIGN_OR_RETURN(const at::Tensor images, EncodeRows(model, batch, grids));
  const at::Tensor words = model.Embed(batch.at(kIds));
  const at::Tensor embeds = words.flatten(0, 1)
                                .index_copy(0, batch.at(kImageRows), images.to(words.scalar_type()))
                                .view(words.sizes());
  const at::Tensor hidden = model.Decode(embeds, batch.at(kPositions));
  const at::Tensor said = hidden.flatten(0, 1).index_select(0, batch.at(kFrom));
  return at::cross_entropy_loss(model.Logits(said).to(at::kFloat), batch.at(kTargets));
}

absl::StatusOr<std::vector<std::vector<int64_t>>> GreedyIds(
    const UnifiedModel& model, const PromptFormat& format, const AnsweringOptions& options,
    std::span<const PictureQuestion> asked) {
  FEDUMM_ASSIGN_OR_RETURN(const LoadedPictures pictures, LoadPictures(options, asked));
  std::vector<std::vector<int64_t>> rows;
  size_t width = 0;
  for (size_t row = 0; row < asked.size(); ++row) {
    rows.push_back(format.Prompt(asked[row].question, pictures.tokens[row]));
    width = std::max(width, rows.back().size());
  }
  const auto shape = {static_cast<int64_t>(rows.size()), static_cast<int64_t>(width)};
  Batch batch = pictures.batch;
  at::Tensor ids = at::full(shape, format.end_id(), at::kLong);
  at::Tensor mask = at::zeros(shape, at::kLong);
  for (size_t row = 0; row < rows.size(); ++row) {
    const size_t at = row * width + width - rows[row].size();  // padded on the left
    std::copy(rows[row].begin(), rows[row].end(), ids.mutable_data_ptr<int64_t>() + at);
    std::fill_n(mask.mutable_data_ptr<int64_t>() + at, rows[row].size(), 1);
  }
  batch[kIds] = std::move(ids);
  batch["mask"] = std::move(mask);
  const Batch moved = ToDevice(batch, model.device());
  Prompt prompt = {.ids = moved.at(kIds), .attention_mask = moved.at("mask")};
  FEDUMM_ASSIGN_OR_RETURN(prompt.image_tokens, EncodeRows(model, moved, GridsOf(batch)));
  prompt.grids = pictures.grids;
  GenerationSettings settings = options.generation;
  settings.stop_ids.push_back(format.end_id());
  StopGeneration stop;
  if (!options.stop_strings.empty()) {
    stop = [&](int64_t, const std::vector<int64_t>& generated) {
      const std::string text = format.Decode(generated);
      return std::ranges::any_of(options.stop_strings, [&](const std::string& end) {
        return text.find(end) != text.npos;
      });
    };
  }
  return model.Generate(prompt, settings, stop);
}

// The text before the first of `stops` in it.
std::string BeforeStop(std::string text, std::span<const std::string> stops) {
  for (const std::string& stop : stops) text = text.substr(0, text.find(stop));
  return text;
}

std::vector<PictureQuestion> QuestionsAt(QuestionSource source, std::span<const int64_t> indices) {
  std::vector<PictureQuestion> asked;
  for (const int64_t index : indices) {
    const auto i = static_cast<size_t>(index);
    asked.push_back({.picture = source.folder.PicturePath(source.folder.questions()[i].image_id),
                     .question = source.tokens.questions[i]});
  }
  return asked;
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
    MetricRecord metrics;
    if (all_.count > 0) metrics.Set(task + "-accuracy", all_.Value());
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
    double Value() const { return sum / static_cast<double>(count); }
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
                QuestionSource test, std::vector<int64_t> asked)
      : model_(model),
        format_(format),
        options_(options),
        train_(train),
        test_(test),
        batches_(std::move(shard)),
        asked_(std::move(asked)) {
    batches_.SortByLength(options_.batches_by_length, [this](int64_t example) {
      const auto i = static_cast<size_t>(example);
      return std::ssize(train_.tokens.questions[i]) + std::ssize(train_.tokens.answers[i]);
    });
  }

  std::string name() const override { return "vqa"; }
  TaskDefaults defaults() const override { return kAnsweringDefaults; }
  bool Trains(std::string_view module_path) const override {
    return !module_path.starts_with("model.dit.");
  }
  int64_t num_examples() const override { return batches_.size(); }
  bool TakesMetaTensors() const override { return true; }
  void Seed(uint64_t seed) override { batches_.Seed(seed); }

  absl::StatusOr<Batch> NextBatch(int64_t batch_size) override {
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> chosen, batches_.Next(batch_size));
    return Guarded([&]() -> absl::StatusOr<Batch> {
      FEDUMM_ASSIGN_OR_RETURN(LoadedPictures pictures,
                              LoadPictures(options_, QuestionsAt(train_, chosen)));
      FEDUMM_RETURN_IF_ERROR(AddRows(chosen, pictures));
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
  absl::Status AddRows(std::span<const int64_t> chosen, LoadedPictures& pictures) const {
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
    std::vector<int64_t> from, targets, image_rows;
    const int64_t image_id = model_.config().image_token_id;
    for (size_t row = 0; row < rows.size(); ++row) {
      std::copy(rows[row].begin(), rows[row].end() - 1, ids.begin() + row * width);
      for (size_t i = 0; i < prompt_sizes[row]; ++i) {
        if (rows[row][i] == image_id) image_rows.push_back(static_cast<int64_t>(row * width + i));
      }
      for (size_t i = prompt_sizes[row]; i < rows[row].size(); ++i) {
        from.push_back(static_cast<int64_t>(row * width + i - 1));
        targets.push_back(rows[row][i]);
      }
    }
    Batch& batch = pictures.batch;
    batch[kIds] = IndexTensor(ids).view({std::ssize(rows), static_cast<int64_t>(width)});
    FEDUMM_ASSIGN_OR_RETURN(const UnifiedModel::Positions positions,
                            model_.PositionsOf(batch[kIds], {}, pictures.grids));
    batch[kPositions] = positions.ids;
    batch[kImageRows] = IndexTensor(image_rows);
    batch[kFrom] = IndexTensor(from);
    batch[kTargets] = IndexTensor(targets);
    return absl::OkStatus();
  }

  const UnifiedModel& model_;
  const PromptFormat& format_;
  const AnsweringOptions& options_;
  const QuestionSource train_;
  const QuestionSource test_;
  Batches batches_;
  const std::vector<int64_t> asked_;
};

}  // namespace

ImageProcessorOptions ProcessorFor(const VisionConfig& config, ImageProcessorOptions preset) {
  preset.patch_size = config.patch_size;
  preset.merge_size = config.spatial_merge_size;
  preset.temporal_patch_size = config.temporal_patch_size;
  return preset;
}

ImageProcessorOptions ProcessorFor(const VisionConfig& config, int64_t min_pixels,
                                   int64_t max_pixels) {
  return ProcessorFor(config, {.min_pixels = min_pixels, .max_pixels = max_pixels});
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

absl::StatusOr<std::vector<std::string>> AnswerPictures(const UnifiedModel& model,
                                                        const PromptFormat& format,
                                                        const AnsweringOptions& options,
                                                        std::span<const PictureQuestion> asked) {
  return Guarded([&]() -> absl::StatusOr<std::vector<std::string>> {
    const at::NoGradGuard no_grad;
    std::vector<std::string> answers;
    while (answers.size() < asked.size()) {
      const size_t count =
          std::min(asked.size() - answers.size(), static_cast<size_t>(options.evaluation_batch));
      FEDUMM_ASSIGN_OR_RETURN(
          const std::vector<std::vector<int64_t>> rows,
          GreedyIds(model, format, options, asked.subspan(answers.size(), count)));
      for (const std::vector<int64_t>& row : rows) {
        answers.push_back(BeforeStop(format.Decode(row), options.stop_strings));
      }
    }
    return answers;
  });
}

absl::StatusOr<std::vector<std::string>> AnswerQuestions(const UnifiedModel& model,
                                                         const PromptFormat& format,
                                                         const AnsweringOptions& options,
                                                         QuestionSource source,
                                                         std::span<const int64_t> indices) {
  return AnswerPictures(model, format, options, QuestionsAt(source, indices));
}

std::unique_ptr<Task> NewAnsweringTask(const UnifiedModel& model, const PromptFormat& format,
                                       const AnsweringOptions& options, QuestionSource train,
                                       std::vector<int64_t> shard, QuestionSource test,
                                       std::vector<int64_t> asked) {
  return std::make_unique<AnsweringTask>(model, format, options, train, std::move(shard), test,
                                         std::move(asked));
}

}  // namespace fedumm::model
