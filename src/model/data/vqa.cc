#include "fedumm/model/vqa.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "model/data/json_entries.h"

namespace fedumm::model {
namespace {

using Json = nlohmann::json;

absl::StatusOr<std::vector<std::string>> Answers(const JsonEntry& annotation) {
  if (annotation.items().empty()) {
    return absl::InvalidArgumentError("an annotation needs 'answers'");
  }
  std::vector<std::string> answers;
  answers.reserve(annotation.items().size());
  absl::flat_hash_set<int64_t> ids;  // the metric leaves out one annotator by this id
  for (const JsonEntry& item : annotation.items()) {
    FEDUMM_ASSIGN_OR_RETURN(std::string answer, item.Text("answer"));
    FEDUMM_ASSIGN_OR_RETURN(const int64_t id, item.Integer("answer_id"));
    if (!ids.insert(id).second) {
      return absl::InvalidArgumentError(absl::StrCat("answer_id ", id, " occurs twice"));
    }
    answers.push_back(std::move(answer));
  }
  return answers;
}

absl::Status Annotate(const JsonEntry& annotation, VqaQuestion& question) {
  if (!question.answers.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("question ", question.question_id, " is annotated twice"));
  }
  FEDUMM_ASSIGN_OR_RETURN(const int64_t image_id, annotation.Integer("image_id"));
  if (image_id != question.image_id) {
    return absl::InvalidArgumentError(absl::StrCat("question ", question.question_id, " has image ",
                                                   question.image_id, ", its annotation ",
                                                   image_id));
  }
  FEDUMM_ASSIGN_OR_RETURN(question.question_type, annotation.Text("question_type"));
  FEDUMM_ASSIGN_OR_RETURN(question.answer_type, annotation.Text("answer_type"));
  FEDUMM_ASSIGN_OR_RETURN(question.multiple_choice_answer,
                          annotation.Text("multiple_choice_answer"));
  FEDUMM_ASSIGN_OR_RETURN(question.answers, Answers(annotation));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<VqaQuestion>> ReadVqaV2(const std::string& questions_path,
                                                   const std::string& annotations_path) {
  std::vector<VqaQuestion> questions;
  absl::flat_hash_map<int64_t, size_t> by_id;
  FEDUMM_RETURN_IF_ERROR(ForEachJsonEntry(
      questions_path, "questions", "", [&](const JsonEntry& object) -> absl::Status {
        VqaQuestion question;
        FEDUMM_ASSIGN_OR_RETURN(question.question_id, object.Integer("question_id"));
        FEDUMM_ASSIGN_OR_RETURN(question.image_id, object.Integer("image_id"));
        FEDUMM_ASSIGN_OR_RETURN(question.question, object.Text("question"));
        if (!by_id.emplace(question.question_id, questions.size()).second) {
          return absl::InvalidArgumentError(
              absl::StrCat("question_id ", question.question_id, " occurs twice"));
        }
        questions.push_back(std::move(question));
        return absl::OkStatus();
      }));
  if (annotations_path.empty()) return questions;

  FEDUMM_RETURN_IF_ERROR(ForEachJsonEntry(
      annotations_path, "annotations", "answers", [&](const JsonEntry& object) -> absl::Status {
        FEDUMM_ASSIGN_OR_RETURN(const int64_t id, object.Integer("question_id"));
        const auto it = by_id.find(id);
        if (it == by_id.end()) {
          return absl::InvalidArgumentError(
              absl::StrCat("annotation of an unknown question: ", id));
        }
        return Annotate(object, questions[it->second]);
      }));
  for (const VqaQuestion& question : questions) {
    if (question.answers.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(annotations_path, ": no annotation of question ", question.question_id));
    }
  }
  return questions;
}

absl::StatusOr<std::vector<PictureCaption>> ReadCaptions(const std::string& path) {
  std::vector<PictureCaption> captions;
  const auto add = [&](const JsonEntry& object) -> absl::Status {
    PictureCaption caption;
    FEDUMM_ASSIGN_OR_RETURN(caption.image_id, object.Integer("image_id"));
    FEDUMM_ASSIGN_OR_RETURN(caption.text, object.Text("caption"));
    captions.push_back(std::move(caption));
    return absl::OkStatus();
  };
  if (!path.ends_with(".jsonl")) {
    FEDUMM_RETURN_IF_ERROR(ForEachJsonEntry(path, "annotations", "", add));
    return captions;
  }
  FEDUMM_RETURN_IF_ERROR(ForEachJsonLine(path, add));
  return captions;
}

absl::Status WriteVqaResults(const std::string& path, std::span<const VqaResult> results) {
  Json list = Json::array();
  for (const VqaResult& result : results) {
    list.push_back({{"question_id", result.question_id}, {"answer", result.answer}});
  }
  // A model can generate half a character; the file stays UTF-8.
  return WriteFileAtomically(
      path, list.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace));
}

absl::StatusOr<std::vector<VqaResult>> ReadVqaResults(const std::string& path) {
  std::vector<VqaResult> results;
  FEDUMM_RETURN_IF_ERROR(
      ForEachJsonEntry(path, "", "", [&](const JsonEntry& object) -> absl::Status {
        VqaResult result;
        FEDUMM_ASSIGN_OR_RETURN(result.question_id, object.Integer("question_id"));
        FEDUMM_ASSIGN_OR_RETURN(result.answer, object.Text("answer"));
        results.push_back(std::move(result));
        return absl::OkStatus();
      }));
  return results;
}

std::string VqaImageName(const std::string& subset, int64_t image_id) {
  char digits[32];
  std::snprintf(digits, sizeof(digits), "%012lld", static_cast<long long>(image_id));
  return absl::StrCat("COCO_", subset, "_", digits, ".jpg");
}

}  // namespace fedumm::model
