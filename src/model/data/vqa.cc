#include "fedumm/model/vqa.h"

#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace fedumm::model {
namespace {

using Json = nlohmann::json;

// Calls `use` with each object of one array and keeps none of them: the annotations of the training
// split would take gigabytes as one document. `array` is a key of the root object; empty if the
// root is the array itself.
absl::Status ForEachObject(const std::string& path, const std::string& array,
                           const std::function<absl::Status(const Json&)>& use) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  const int object_depth = array.empty() ? 1 : 2;
  bool inside = array.empty();
  bool found = array.empty();
  absl::Status status;
  const auto on_event = [&](int depth, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::key && depth == 1 && !array.empty()) {
      inside = value == array;
      found |= inside;
    }
    if (event != Json::parse_event_t::object_end || depth != object_depth || !inside) return true;
    if (status.ok()) status = use(value);
    return false;
  };
  const Json root = Json::parse(text, on_event, /*allow_exceptions=*/false);
  const auto error = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
  };
  if (!status.ok()) return error(std::string(status.message()));
  if (root.is_discarded()) return error("not a JSON document");
  const bool right_shape = array.empty() ? root.is_array() : root.is_object() && found;
  if (!right_shape) return error(absl::StrCat("no array '", array, "'"));
  const Json& rest = array.empty() ? root : root[array];
  if (!rest.is_array() || !rest.empty()) {
    return error(absl::StrCat("'", array, "' is not an array of objects"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> IntegerField(const Json& object, const char* name) {
  const auto it = object.find(name);
  if (it == object.end() || !it->is_number_integer()) {
    return absl::InvalidArgumentError(absl::StrCat("an entry needs the integer '", name, "'"));
  }
  return it->get<int64_t>();
}

absl::StatusOr<std::string> StringField(const Json& object, const char* name) {
  const auto it = object.find(name);
  if (it == object.end() || !it->is_string()) {
    return absl::InvalidArgumentError(absl::StrCat("an entry needs the string '", name, "'"));
  }
  return it->get<std::string>();
}

absl::StatusOr<std::vector<std::string>> Answers(const Json& annotation) {
  const auto it = annotation.find("answers");
  if (it == annotation.end() || !it->is_array() || it->empty()) {
    return absl::InvalidArgumentError("an annotation needs 'answers'");
  }
  std::vector<std::string> answers;
  absl::flat_hash_set<int64_t> ids;  // the metric leaves out one annotator by this id
  for (const Json& item : *it) {
    if (!item.is_object()) return absl::InvalidArgumentError("an answer is not an object");
    FEDUMM_ASSIGN_OR_RETURN(std::string answer, StringField(item, "answer"));
    FEDUMM_ASSIGN_OR_RETURN(const int64_t id, IntegerField(item, "answer_id"));
    if (!ids.insert(id).second) {
      return absl::InvalidArgumentError(absl::StrCat("answer_id ", id, " occurs twice"));
    }
    answers.push_back(std::move(answer));
  }
  return answers;
}

absl::Status Annotate(const Json& annotation, VqaQuestion& question) {
  if (!question.answers.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("question ", question.question_id, " is annotated twice"));
  }
  FEDUMM_ASSIGN_OR_RETURN(const int64_t image_id, IntegerField(annotation, "image_id"));
  if (image_id != question.image_id) {
    return absl::InvalidArgumentError(absl::StrCat("question ", question.question_id, " has image ",
                                                   question.image_id, ", its annotation ",
                                                   image_id));
  }
  FEDUMM_ASSIGN_OR_RETURN(question.question_type, StringField(annotation, "question_type"));
  FEDUMM_ASSIGN_OR_RETURN(question.answer_type, StringField(annotation, "answer_type"));
  FEDUMM_ASSIGN_OR_RETURN(question.multiple_choice_answer,
                          StringField(annotation, "multiple_choice_answer"));
  FEDUMM_ASSIGN_OR_RETURN(question.answers, Answers(annotation));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<VqaQuestion>> ReadVqaV2(const std::string& questions_path,
                                                   const std::string& annotations_path) {
  std::vector<VqaQuestion> questions;
  absl::flat_hash_map<int64_t, size_t> by_id;
  FEDUMM_RETURN_IF_ERROR(
      ForEachObject(questions_path, "questions", [&](const Json& object) -> absl::Status {
        VqaQuestion question;
        FEDUMM_ASSIGN_OR_RETURN(question.question_id, IntegerField(object, "question_id"));
        FEDUMM_ASSIGN_OR_RETURN(question.image_id, IntegerField(object, "image_id"));
        FEDUMM_ASSIGN_OR_RETURN(question.question, StringField(object, "question"));
        if (!by_id.emplace(question.question_id, questions.size()).second) {
          return absl::InvalidArgumentError(
              absl::StrCat("question_id ", question.question_id, " occurs twice"));
        }
        questions.push_back(std::move(question));
        return absl::OkStatus();
      }));
  if (annotations_path.empty()) return questions;

  FEDUMM_RETURN_IF_ERROR(
      ForEachObject(annotations_path, "annotations", [&](const Json& object) -> absl::Status {
        FEDUMM_ASSIGN_OR_RETURN(const int64_t id, IntegerField(object, "question_id"));
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
  const auto add = [&](const Json& object) -> absl::Status {
    PictureCaption caption;
    FEDUMM_ASSIGN_OR_RETURN(caption.image_id, IntegerField(object, "image_id"));
    FEDUMM_ASSIGN_OR_RETURN(caption.text, StringField(object, "caption"));
    captions.push_back(std::move(caption));
    return absl::OkStatus();
  };
  if (!path.ends_with(".jsonl")) {
    FEDUMM_RETURN_IF_ERROR(ForEachObject(path, "annotations", add));
    return captions;
  }
  FEDUMM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  int64_t number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    const Json object = Json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
    const absl::Status status =
        object.is_object() ? add(object) : absl::InvalidArgumentError("not a JSON object");
    if (!status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ", line ", number, ": ", status.message()));
    }
  }
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
  FEDUMM_RETURN_IF_ERROR(ForEachObject(path, "", [&](const Json& object) -> absl::Status {
    VqaResult result;
    FEDUMM_ASSIGN_OR_RETURN(result.question_id, IntegerField(object, "question_id"));
    FEDUMM_ASSIGN_OR_RETURN(result.answer, StringField(object, "answer"));
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
