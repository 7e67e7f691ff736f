#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "fedumm/model/vqa.h"
#include "model/data/utf8.h"
#include "model/eval/python_text.h"

namespace fedumm::model {
namespace {

constexpr std::u32string_view kPunctuation = U";/[]\"{}()=+\\_-><@`,?!";
constexpr int kMaxDeletedPeriods = 32;  // the reference passes a flag where a count is expected

// Each is also recognised with exactly one of its apostrophes missing.
constexpr std::u32string_view kContractions =
    U"ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's "
    U"how'd how'll how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've "
    U"o'clock oughtn't shan't should've shouldn't somebody'll somebody's someone'd someone'll "
    U"someone's something'd something'll that's there'd there're there's they'd they'll they're "
    U"they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's "
    U"where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd "
    U"you'll you're you've couldn't've hadn't've he'd've it'd've mightn't've she'd've "
    U"shouldn't've somebody'd've someone'd've something'd've there'd've they'd've we'd've "
    U"who'd've wouldn't've y'all'll you'd've 'ow's'at y'all'd've";

const std::map<std::u32string, std::u32string, std::less<>>& Replacements() {
  static const auto* const table = [] {
    auto* words = new std::map<std::u32string, std::u32string, std::less<>>{
        {U"none", U"0"},
        {U"zero", U"0"},
        {U"one", U"1"},
        {U"two", U"2"},
        {U"three", U"3"},
        {U"four", U"4"},
        {U"five", U"5"},
        {U"six", U"6"},
        {U"seven", U"7"},
        {U"eight", U"8"},
        {U"nine", U"9"},
        {U"ten", U"10"},
        {U"somebody'd", U"somebodyd"}};  // in the other direction, as in the reference
    for (const std::u32string_view word : SplitWords(kContractions)) {
      for (size_t i = word.find(U'\''); i != word.npos; i = word.find(U'\'', i + 1)) {
        std::u32string key(word);
        key.erase(i, 1);
        words->emplace(std::move(key), word);
      }
    }
    return words;
  }();
  return *table;
}

bool HasDigitCommaDigit(std::u32string_view text, bool many_commas) {
  for (size_t i = 1; i < text.size(); ++i) {
    if (text[i] != U',' || !IsDigit(text[i - 1])) continue;
    size_t after = i + 1;
    while (many_commas && after < text.size() && text[after] == U',') ++after;
    if (after < text.size() && IsDigit(text[after])) return true;
  }
  return false;
}

bool Contains(std::u32string_view text, char32_t a, char32_t b) {
  const char32_t pair[] = {a, b};
  return text.find(std::u32string_view(pair, 2)) != text.npos;
}

std::u32string ProcessPunctuation(std::u32string_view text, bool many_commas) {
  const bool has_number = HasDigitCommaDigit(text, many_commas);
  std::u32string result;
  for (const char32_t c : text) {
    if (kPunctuation.find(c) == kPunctuation.npos) {
      result.push_back(c);
    } else if (!has_number && !Contains(text, c, U' ') && !Contains(text, U' ', c)) {
      result.push_back(U' ');
    }
  }
  int deleted = 0;
  std::u32string kept;
  for (size_t i = 0; i < result.size(); ++i) {
    const bool before_digit = i + 1 < result.size() && IsDigit(result[i + 1]);
    if (result[i] == U'.' && !before_digit && deleted < kMaxDeletedPeriods) {
      ++deleted;
    } else {
      kept.push_back(result[i]);
    }
  }
  return kept;
}

std::u32string ProcessWords(std::u32string_view text) {
  std::u32string result;
  const std::u32string lower = Lower(text);
  bool first = true;
  for (const std::u32string_view word : SplitWords(lower)) {
    if (word == U"a" || word == U"an" || word == U"the") continue;
    if (!std::exchange(first, false)) result.push_back(U' ');
    const auto it = Replacements().find(word);
    result += it == Replacements().end() ? std::u32string(word) : it->second;
  }
  return result;
}

std::u32string Normalize(std::u32string_view text, bool many_commas) {
  return ProcessWords(ProcessPunctuation(text, many_commas));
}

std::u32string Trim(std::u32string text) {
  std::ranges::replace(text, U'\n', U' ');
  std::ranges::replace(text, U'\t', U' ');
  return std::u32string(Strip(text));
}

// What lmms-eval does to a prediction before the official steps.
std::u32string LmmsTokenize(std::u32string_view text) {
  std::u32string result;
  const std::u32string lower = Lower(text);
  for (size_t i = 0; i < lower.size(); ++i) {
    if (lower[i] == U',' || lower[i] == U'?') continue;
    result.push_back(lower[i]);
  }
  for (size_t i = result.find(U"'s"); i != result.npos; i = result.find(U"'s", i + 3)) {
    result.insert(i, 1, U' ');
  }
  return std::u32string(Strip(result));
}

double LeaveOneOut(const std::u32string& prediction, const std::vector<std::u32string>& answers) {
  const auto matches = std::ranges::count(answers, prediction);
  double sum = 0;
  for (const std::u32string& answer : answers) {
    const auto others = matches - (answer == prediction ? 1 : 0);
    sum += std::min(1.0, static_cast<double>(others) / 3);
  }
  return sum / static_cast<double>(answers.size());
}

// Rounds to two decimals as Python's round does: from the exact binary value.
double Percent(double sum, size_t count) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.2f", 100 * sum / static_cast<double>(count));
  return std::strtod(text, nullptr);
}

struct Mean {
  double sum = 0;
  size_t count = 0;
};

}  // namespace

std::string NormalizeVqaAnswer(std::string_view answer) {
  return EncodeUtf8(Normalize(Trim(DecodeUtf8(answer)), /*many_commas=*/false));
}

double VqaAccuracy(std::string_view prediction, std::span<const std::string> answers,
                   VqaScorer scorer) {
  if (answers.empty()) return 0;
  std::u32string result = DecodeUtf8(prediction);
  std::vector<std::u32string> references;
  for (const std::string& answer : answers) references.push_back(DecodeUtf8(answer));

  if (scorer == VqaScorer::kFedummLegacy) {
    result = Lower(Strip(result));
    const auto matches = std::ranges::count_if(
        references, [&](const std::u32string& answer) { return Lower(Strip(answer)) == result; });
    return std::min(1.0, static_cast<double>(matches) / 3);
  }

  const bool lmms = scorer == VqaScorer::kLmms;
  result = lmms ? Normalize(Trim(LmmsTokenize(result)), lmms) : Trim(std::move(result));
  for (std::u32string& answer : references) answer = Trim(std::move(answer));
  const bool unanimous =
      std::ranges::count(references, references.front()) == std::ssize(references);
  if (!unanimous) {
    for (std::u32string& answer : references) answer = Normalize(answer, lmms);
    result = Normalize(result, lmms);
  }
  return LeaveOneOut(result, references);
}

absl::StatusOr<VqaReport> ScoreVqa(std::span<const VqaQuestion> questions,
                                   std::span<const VqaResult> results, VqaScorer scorer) {
  absl::flat_hash_map<int64_t, const std::string*> answers;
  for (const VqaResult& result : results) {
    if (!answers.emplace(result.question_id, &result.answer).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("more than one result for question ", result.question_id));
    }
  }
  if (results.size() != questions.size() || questions.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(results.size(), " results for ", questions.size(), " questions"));
  }
  Mean overall;
  std::map<std::string, Mean> question_types;
  std::map<std::string, Mean> answer_types;
  for (const VqaQuestion& question : questions) {
    const auto it = answers.find(question.question_id);
    if (it == answers.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("no result for question ", question.question_id));
    }
    const double accuracy = VqaAccuracy(*it->second, question.answers, scorer);
    for (Mean* const mean :
         {&overall, &question_types[question.question_type], &answer_types[question.answer_type]}) {
      mean->sum += accuracy;
      ++mean->count;
    }
  }
  VqaReport report = {.overall = Percent(overall.sum, overall.count)};
  for (const auto& [type, mean] : question_types) {
    report.per_question_type[type] = Percent(mean.sum, mean.count);
  }
  for (const auto& [type, mean] : answer_types) {
    report.per_answer_type[type] = Percent(mean.sum, mean.count);
  }
  return report;
}

}  // namespace fedumm::model
