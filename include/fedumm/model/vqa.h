// Visual question answering in the files and with the metric of the VQA v2 benchmark.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fedumm::model {

struct VqaQuestion {
  int64_t question_id = 0;
  int64_t image_id = 0;
  std::string question;
  // The rest is empty where the dataset has no annotations (test splits).
  std::string question_type;           // "what color is the"
  std::string answer_type;             // "yes/no", "number", "other"
  std::string multiple_choice_answer;  // the most frequent answer
  std::vector<std::string> answers;    // of ten annotators
};

struct VqaResult {
  int64_t question_id = 0;
  std::string answer;
};

// Reads v2_OpenEnded_mscoco_*_questions.json and, unless `annotations_path` is empty,
// v2_mscoco_*_annotations.json. The order is that of the questions. INVALID_ARGUMENT unless both
// files follow the schema, ids are unique and each question has exactly one annotation.
absl::StatusOr<std::vector<VqaQuestion>> ReadVqaV2(const std::string& questions_path,
                                                   const std::string& annotations_path);

struct PictureCaption {
  int64_t image_id = 0;
  std::string text;
};

// Reads captions: COCO's captions_*.json ({"annotations": [{"image_id", "caption"}, ...]}) or, for
// a path that ends in ".jsonl", one {"image_id", "caption"} on each line. A picture may have
// several. INVALID_ARGUMENT, naming the line or what is missing, for anything else.
absl::StatusOr<std::vector<PictureCaption>> ReadCaptions(const std::string& path);

// The results file that the evaluation server takes.
absl::Status WriteVqaResults(const std::string& path, std::span<const VqaResult> results);
absl::StatusOr<std::vector<VqaResult>> ReadVqaResults(const std::string& path);

// "COCO_val2014_000000000042.jpg".
std::string VqaImageName(const std::string& subset, int64_t image_id);

// Published figures come from different scorers; name the one that yours come from.
enum class VqaScorer {
  kOfficial,      // the benchmark's: leave one annotator out, normalise unless all of them agree
  kLmms,          // lmms-eval's: as above, but the prediction is always normalised, and more
  kFedummLegacy,  // FedUMM's first code: lower-cased matches of all ten, three are enough
};

// In [0, 1]; 0 without answers.
double VqaAccuracy(std::string_view prediction, std::span<const std::string> answers,
                   VqaScorer scorer = VqaScorer::kOfficial);

// The official normalisation: punctuation, digits, articles, contractions.
std::string NormalizeVqaAnswer(std::string_view answer);

// Percentages, rounded to two decimals as the official script prints them.
struct VqaReport {
  double overall = 0;
  std::map<std::string, double> per_question_type;
  std::map<std::string, double> per_answer_type;
};

// INVALID_ARGUMENT unless there is exactly one result for each question.
absl::StatusOr<VqaReport> ScoreVqa(std::span<const VqaQuestion> questions,
                                   std::span<const VqaResult> results,
                                   VqaScorer scorer = VqaScorer::kOfficial);

}  // namespace fedumm::model
