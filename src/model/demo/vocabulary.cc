#include "model/demo/vocabulary.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace fedumm::model {
namespace {

constexpr const char* kWords[] = {"is",    "a",     "shape",   "present",  "there", "does",
                                  "the",   "image", "contain", "in",       "no",    "what",
                                  "color", "of",    "yes",     "describe", "draw"};
constexpr const char* kSpecials[] = {"<|im_end|>", "<|vision_start|>", "<|vision_end|>", "[IMG]"};

// A word's token carries the space before it, so that it is the same token wherever it stands.
std::string TokenOf(std::string_view word) {
  return word == "?" ? "?" : "\u0120" + std::string(word);
}

}  // namespace

absl::StatusOr<Vocabulary> Vocabulary::Load(const std::string& path, const BackboneConfig& config) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, int64_t{16} << 20));
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  Vocabulary vocabulary;
  std::map<std::string, int64_t> tokens;
  if (!json.is_object() || !json.contains("model") || !json.contains("added_tokens")) {
    return absl::InvalidArgumentError(absl::StrCat("not a tokenizer: ", path));
  }
  for (const auto& [token, id] : json["model"]["vocab"].items()) tokens[token] = id;
  for (const auto& token : json["added_tokens"]) tokens[token["content"]] = token["id"];
  const auto add = [&](const std::string& word, const std::string& token) -> absl::Status {
    const auto it = tokens.find(token);
    if (it == tokens.end() || it->second >= config.text.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat("no token for \"", word, "\": ", path));
    }
    vocabulary.ids_[word] = it->second;
    return absl::OkStatus();
  };
  std::vector<std::string> words(std::begin(kWords), std::end(kWords));
  words.insert(words.end(), kColors.begin(), kColors.end());
  words.insert(words.end(), kShapes.begin(), kShapes.end());
  words.push_back("?");
  for (const std::string& word : words) FEDUMM_RETURN_IF_ERROR(add(word, TokenOf(word)));
  for (const char* special : kSpecials) FEDUMM_RETURN_IF_ERROR(add(special, special));
  return vocabulary;
}

int64_t Vocabulary::id(std::string_view word) const { return ids_.find(word)->second; }

std::string Vocabulary::word(int64_t id) const {
  for (const auto& [word, word_id] : ids_) {
    if (word_id == id) return word;
  }
  return "";
}

std::vector<int64_t> Vocabulary::Encode(std::string_view sentence) const {
  std::vector<int64_t> ids;
  size_t begin = 0;
  while (begin < sentence.size()) {
    size_t end = sentence.find_first_of(" ?", begin);
    if (end == std::string_view::npos) end = sentence.size();
    if (end > begin) ids.push_back(id(sentence.substr(begin, end - begin)));
    if (end < sentence.size() && sentence[end] == '?') ids.push_back(id("?"));
    begin = end + 1;
  }
  return ids;
}

Sequence Vocabulary::Vqa(std::string_view question, std::string_view answer) const {
  Sequence sequence;
  sequence.ids = {id("<|vision_start|>"), id("<|vision_end|>")};
  const std::vector<int64_t> asked = Encode(question);
  sequence.ids.insert(sequence.ids.end(), asked.begin(), asked.end());
  sequence.ids.push_back(id("<|im_end|>"));
  sequence.num_prompt = static_cast<int64_t>(sequence.ids.size());
  const std::vector<int64_t> answered = Encode(answer);
  sequence.ids.insert(sequence.ids.end(), answered.begin(), answered.end());
  sequence.ids.push_back(id("<|im_end|>"));
  return sequence;
}

Sequence Vocabulary::Caption(Concept shown) const {
  return Vqa("describe",
             "a " + std::string(kColors[shown.color]) + " " + std::string(kShapes[shown.shape]));
}

std::vector<int64_t> Vocabulary::DrawPrompt(Concept wanted) const {
  std::vector<int64_t> ids = Encode("draw a " + std::string(kColors[wanted.color]) + " " +
                                    std::string(kShapes[wanted.shape]));
  ids.push_back(id("<|im_end|>"));
  ids.push_back(id("[IMG]"));
  return ids;
}

}  // namespace fedumm::model
