// Answering questions about pictures, on any checkpoint that UnifiedModel can load.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/image.h"
#include "fedumm/model/task.h"
#include "fedumm/model/vqa_folder.h"
#include "model/tasks/prompt_format.h"

namespace fedumm::model {

// Of NewAnsweringTask.
inline constexpr TaskDefaults kAnsweringDefaults{.batch_size = 8, .loss_weight = 1};

// What pictures and questions go through on their way to the decoder.
struct AnsweringOptions {
  ImageProcessorOptions processor;  // patch sizes are those of the model
  ImageReadOptions reading;
  bool jpeg_again = false;  // see LoadPatches
  int threads = 1;          // that decode and resize pictures
  int64_t evaluation_batch = 16;
  int64_t batches_by_length = 1;  // see Batches::SortByLength
  GenerationSettings generation;  // the end of the turn stops it, too
  // An answer ends before the first of these, which it does not include.
  std::vector<std::string> stop_strings;
};

// The processor that the model's vision tower needs, between the pixel limits.
ImageProcessorOptions ProcessorFor(const VisionConfig& config, int64_t min_pixels,
                                   int64_t max_pixels);
// The same with the limits of `preset`.
ImageProcessorOptions ProcessorFor(const VisionConfig& config, ImageProcessorOptions preset);

// Questions with the answers to train on, in token ids.
struct TokenizedQuestions {
  std::vector<std::vector<int64_t>> questions;
  std::vector<std::vector<int64_t>> answers;  // the most frequent one of each
};
// INVALID_ARGUMENT, naming the question's id, for a text that PromptFormat refuses.
absl::StatusOr<TokenizedQuestions> Tokenize(const PromptFormat& format,
                                            std::span<const VqaQuestion> questions,
                                            bool with_answers);

// A set of questions with everything that is needed to answer them. The parts outlive it.
struct QuestionSource {
  const VqaFolder& folder;
  const TokenizedQuestions& tokens;
};

// A question about a picture file.
struct PictureQuestion {
  std::string picture;                // path of a PNG or JPEG
  std::span<const int64_t> question;  // of PromptFormat::Question; outlives the call it is given to
};

// The model's greedy answers, in the order of `asked`: the one way in which fedumm answers. A
// picture that several questions of a batch are about is read once. Errors name the picture.
absl::StatusOr<std::vector<std::string>> AnswerPictures(const UnifiedModel& model,
                                                        const PromptFormat& format,
                                                        const AnsweringOptions& options,
                                                        std::span<const PictureQuestion> asked);

// The same for `indices` into the source's questions.
absl::StatusOr<std::vector<std::string>> AnswerQuestions(const UnifiedModel& model,
                                                         const PromptFormat& format,
                                                         const AnsweringOptions& options,
                                                         QuestionSource source,
                                                         std::span<const int64_t> indices);

// The task "vqa": trains on the questions of `shard`, indices into `train`; Evaluate answers the
// questions `asked`, indices into `test`, and gives VQA v2's official accuracy as shares:
// "vqa-accuracy", "vqa-accuracy-<answer type>" and "vqa-num-examples", which alone is there where
// nothing is asked. The arguments outlive the task.
std::unique_ptr<Task> NewAnsweringTask(const UnifiedModel& model, const PromptFormat& format,
                                       const AnsweringOptions& options, QuestionSource train,
                                       std::vector<int64_t> shard, QuestionSource test,
                                       std::vector<int64_t> asked);

}  // namespace fedumm::model
