#include "fedumm/model/easy_vqa.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "fedumm/model/image.h"

namespace fedumm::model {
namespace {

constexpr int64_t kMaxPictures = 100'000;
constexpr int64_t kMaxQuestionsFile = 64 << 20;

template <size_t n>
int IndexOf(const std::array<std::string_view, n>& names, std::string_view name) {
  const auto it = std::find(names.begin(), names.end(), name);
  return it == names.end() ? -1 : static_cast<int>(it - names.begin());
}

struct RawQuestion {
  std::string text;
  std::string answer;
  int64_t picture;
  std::vector<std::string> words;
};

bool HasWord(const RawQuestion& question, std::string_view word) {
  return std::find(question.words.begin(), question.words.end(), word) != question.words.end();
}
bool IsNegated(const RawQuestion& question) {
  return HasWord(question, "not") || HasWord(question, "no");
}
bool IsWhat(const RawQuestion& question) { return absl::StartsWith(question.text, "what"); }
bool IsYesNo(std::string_view answer) { return answer == "yes" || answer == "no"; }

Concept NamedIn(const std::vector<std::string>& words) {
  Concept named;
  for (const std::string& word : words) {
    if (const int color = IndexOf(kColors, word); color >= 0) named.color = color;
    if (const int shape = IndexOf(kShapes, word); shape >= 0) named.shape = shape;
  }
  return named;
}

// [["is there a red shape?", "yes", 17], …]
absl::StatusOr<std::vector<RawQuestion>> ReadQuestions(const std::string& path) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxQuestionsFile));
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_array() || json.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("not a list of questions: ", path));
  }
  std::vector<RawQuestion> questions;
  questions.reserve(json.size());
  for (const nlohmann::json& item : json) {
    if (!item.is_array() || item.size() != 3 || !item[0].is_string() || !item[1].is_string() ||
        !item[2].is_number_unsigned() || item[2].get<uint64_t>() >= kMaxPictures) {
      return absl::InvalidArgumentError(
          absl::StrCat("question ", questions.size(), " is not [text, answer, picture]: ", path));
    }
    RawQuestion question{item[0], item[1], item[2].get<int64_t>(), {}};
    question.words =
        absl::StrSplit(absl::StripSuffix(question.text, "?"), ' ', absl::SkipWhitespace());
    questions.push_back(std::move(question));
  }
  return questions;
}

// The pictures have no labels: what they show is taken from the questions about them.
std::vector<Concept> ConceptsOf(const std::vector<RawQuestion>& questions, int64_t num_pictures) {
  std::vector<Concept> concepts(num_pictures);
  const auto learn = [&](int64_t picture, Concept named) {
    if (named.color >= 0) concepts[picture].color = named.color;
    if (named.shape >= 0) concepts[picture].shape = named.shape;
  };
  for (const RawQuestion& question : questions) {
    const bool affirmed =
        IsYesNo(question.answer) && (question.answer == "yes") != IsNegated(question);
    if (affirmed || IsWhat(question)) learn(question.picture, NamedIn(question.words));
    learn(question.picture, NamedIn({question.answer}));
  }
  return concepts;
}

QuestionType TypeOf(const RawQuestion& question) {
  if (IsWhat(question)) {
    return HasWord(question, "color") ? QuestionType::kWhatColor : QuestionType::kWhatShape;
  }
  const bool of_color = NamedIn(question.words).color >= 0;
  if (IsNegated(question)) return of_color ? QuestionType::kNotColor : QuestionType::kNotShape;
  return of_color ? QuestionType::kColor : QuestionType::kShape;
}

std::vector<int64_t> Balanced(const std::vector<Question>& questions) {
  std::map<std::pair<QuestionType, std::string>, std::vector<int64_t>> groups;
  for (int64_t i = 0; i < static_cast<int64_t>(questions.size()); ++i) {
    groups[{questions[i].type, questions[i].answer}].push_back(i);
  }
  Random random(/*seed=*/0);
  std::vector<int64_t> kept;
  for (auto& [key, indices] : groups) {
    size_t count = indices.size();
    if (IsYesNo(key.second)) {
      const std::pair<QuestionType, std::string> other(key.first,
                                                       key.second == "yes" ? "no" : "yes");
      const auto it = groups.find(other);
      count = std::min(count, it == groups.end() ? 0 : it->second.size());
    }
    std::vector<int64_t> order = indices;
    if (count < order.size()) random.Shuffle(order);
    kept.insert(kept.end(), order.begin(), order.begin() + count);
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

absl::Status ReadPicture(const std::string& path, uint8_t* pixels) {
  FEDUMM_ASSIGN_OR_RETURN(const Image image, ReadPng(path, kPictureSize * kPictureSize));
  if (image.width != kPictureSize || image.height != kPictureSize) {
    return absl::InvalidArgumentError(
        absl::StrCat("picture is not 64x64 but ", image.width, "x", image.height, ": ", path));
  }
  std::copy(image.pixels.begin(), image.pixels.end(), pixels);
  return absl::OkStatus();
}

absl::StatusOr<EasyVqaSplit> LoadSplit(const std::string& folder, bool negated) {
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<RawQuestion> raw,
                          ReadQuestions(absl::StrCat(folder, "/questions.json")));
  int64_t num_pictures = 0;
  for (const RawQuestion& question : raw) {
    num_pictures = std::max(num_pictures, question.picture + 1);
  }
  EasyVqaSplit split;
  split.concepts = ConceptsOf(raw, num_pictures);
  split.pixels.resize(num_pictures * kPictureBytes);
  for (int64_t i = 0; i < num_pictures; ++i) {
    FEDUMM_RETURN_IF_ERROR(ReadPicture(absl::StrCat(folder, "/images/", i, ".png"),
                                       split.pixels.data() + i * kPictureBytes));
  }
  for (const RawQuestion& question : raw) {
    const Concept shown = split.concepts[question.picture];
    if ((IsNegated(question) && !negated) || shown.color < 0) continue;
    const Concept named = NamedIn(question.words);
    const bool is_new = IsNewColor(shown.color) || IsNewShape(shown.shape) ||
                        IsNewColor(named.color) || IsNewShape(named.shape);
    split.questions.push_back(
        {question.text, question.answer, question.picture, TypeOf(question), is_new});
  }
  split.balanced = Balanced(split.questions);
  return split;
}

}  // namespace

bool IsNewColor(int color) {
  return color >= 0 &&
         (kColors[color] == "brown" || kColors[color] == "teal" || kColors[color] == "yellow");
}
bool IsNewShape(int shape) { return shape >= 0 && kShapes[shape] == "triangle"; }

absl::StatusOr<EasyVqa> EasyVqa::Load(const std::string& folder, bool negated) {
  EasyVqa data;
  FEDUMM_ASSIGN_OR_RETURN(data.train, LoadSplit(absl::StrCat(folder, "/train"), negated));
  FEDUMM_ASSIGN_OR_RETURN(data.test, LoadSplit(absl::StrCat(folder, "/test"), negated));
  return data;
}

}  // namespace fedumm::model
