#include "model/data/tokenizer_files.h"

#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace fedumm::model {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxId = int64_t{1} << 30;
constexpr size_t kMaxAddedTokenBytes = 1024;
constexpr char kQwenExpression[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

absl::Status Unsupported(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("unsupported tokenizer: ", what));
}

absl::StatusOr<Json> ParseJson(std::string_view text, const char* what) {
  Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(what, " is not a JSON object"));
  }
  return json;
}

// The member `name`, or null.
const Json& Get(const Json& object, const char* name) {
  static const Json null;
  if (!object.is_object()) return null;
  const auto it = object.find(name);
  return it == object.end() ? null : *it;
}

bool IsString(const Json& json, std::string_view text) {
  return json.is_string() && json.get_ref<const std::string&>() == text;
}

// A switch, or `otherwise` if it is absent.
absl::StatusOr<bool> Flag(const Json& object, const char* name, bool otherwise) {
  const Json& value = Get(object, name);
  if (value.is_null()) return otherwise;
  if (!value.is_boolean()) {
    return absl::InvalidArgumentError(absl::StrCat("an added token's ", name, " is no boolean"));
  }
  return value.get<bool>();
}

// Absent, null, false and "" all mean that a feature is off.
bool IsOff(const Json& json) { return json.is_null() || json == Json(false) || IsString(json, ""); }

absl::StatusOr<int64_t> Id(const Json& json, const std::string& token) {
  if (!json.is_number_unsigned() || json.get<uint64_t>() >= kMaxId) {
    return absl::InvalidArgumentError(
        absl::StrCat("token '", absl::CHexEscape(token.substr(0, 100)), "' has no valid id"));
  }
  return json.get<int64_t>();
}

absl::Status AddVocab(const Json& vocab, TokenizerFiles& files) {
  if (!vocab.is_object()) return absl::InvalidArgumentError("vocab is not a JSON object");
  for (const auto& [token, json] : vocab.items()) {
    FEDUMM_ASSIGN_OR_RETURN(files.vocab[token], Id(json, token));
  }
  return absl::OkStatus();
}

absl::Status AddMerge(std::string_view line, TokenizerFiles& files) {
  const size_t space = line.find(' ');
  if (space == line.npos || line.find(' ', space + 1) != line.npos) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a merge is not two tokens: ", absl::CHexEscape(std::string(line.substr(0, 100)))));
  }
  files.merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  return absl::OkStatus();
}

// Merges are "a b" or ["a", "b"]: both occur.
absl::Status AddMerges(const Json& merges, TokenizerFiles& files) {
  if (!merges.is_array()) return absl::InvalidArgumentError("merges are not a JSON array");
  for (const Json& merge : merges) {
    if (merge.is_string()) {
      FEDUMM_RETURN_IF_ERROR(AddMerge(merge.get_ref<const std::string&>(), files));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      files.merges.emplace_back(merge[0], merge[1]);
    } else {
      return absl::InvalidArgumentError("a merge is not two tokens");
    }
  }
  return absl::OkStatus();
}

absl::Status AddAddedToken(const Json& id, const Json& token, TokenizerFiles& files) {
  const Json& content = Get(token, "content");
  if (!content.is_string() || content.get_ref<const std::string&>().empty() ||
      content.get_ref<const std::string&>().size() > kMaxAddedTokenBytes) {
    return absl::InvalidArgumentError("an added token has no valid content");
  }
  const std::string text = content;
  for (const char* const flag : {"single_word", "lstrip", "rstrip"}) {
    if (!IsOff(Get(token, flag)))
      return Unsupported(absl::StrCat("added token ", text, " with ", flag));
  }
  FEDUMM_ASSIGN_OR_RETURN(const int64_t number, Id(id, text));
  FEDUMM_ASSIGN_OR_RETURN(const bool special, Flag(token, "special", false));
  FEDUMM_ASSIGN_OR_RETURN(const bool normalized, Flag(token, "normalized", !special));
  files.added_tokens.push_back({number, text, normalized});
  return absl::OkStatus();
}

absl::Status SetNormalizer(const Json& normalizer, TokenizerFiles& files) {
  files.nfc = IsString(Get(normalizer, "type"), "NFC");
  if (!files.nfc && !normalizer.is_null()) return Unsupported("normalizer other than NFC");
  return absl::OkStatus();
}

// ByteLevel alone, or a Split by an expression before it.
absl::Status SetPreTokenizer(const Json& pre_tokenizer, TokenizerFiles& files) {
  const bool sequence = IsString(Get(pre_tokenizer, "type"), "Sequence");
  const Json steps = sequence ? Get(pre_tokenizer, "pretokenizers") : Json::array({pre_tokenizer});
  if (!steps.is_array() || steps.empty() || steps.size() > 2) {
    return Unsupported("pre_tokenizer is not Split and ByteLevel");
  }
  if (steps.size() == 2) {
    const Json& expression = Get(Get(steps[0], "pattern"), "Regex");
    if (!IsString(Get(steps[0], "type"), "Split") || !expression.is_string() ||
        !IsString(Get(steps[0], "behavior"), "Isolated") || !IsOff(Get(steps[0], "invert"))) {
      return Unsupported("pre_tokenizer is not a Split by Regex, Isolated");
    }
    files.expression = expression;
  }
  const Json& bytes = steps.back();
  // Both switches are on where they are absent.
  if (!IsString(Get(bytes, "type"), "ByteLevel") || Get(bytes, "add_prefix_space") != Json(false) ||
      Get(bytes, "use_regex") != Json(false)) {
    return Unsupported("pre_tokenizer needs ByteLevel without add_prefix_space and use_regex");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerFiles> ParseTokenizerJson(std::string_view tokenizer_json) {
  FEDUMM_ASSIGN_OR_RETURN(const Json root, ParseJson(tokenizer_json, "tokenizer.json"));
  TokenizerFiles files;
  const Json& model = Get(root, "model");
  if (!IsString(Get(model, "type"), "BPE")) return Unsupported("model is not BPE");
  for (const char* const feature : {"dropout", "unk_token", "continuing_subword_prefix",
                                    "end_of_word_suffix", "byte_fallback", "ignore_merges"}) {
    if (!IsOff(Get(model, feature))) return Unsupported(feature);
  }
  for (const char* const feature : {"post_processor", "decoder"}) {
    const Json& step = Get(root, feature);
    if (!step.is_null() && !IsString(Get(step, "type"), "ByteLevel")) {
      return Unsupported(absl::StrCat(feature, " other than ByteLevel"));
    }
  }
  for (const char* const feature : {"truncation", "padding"}) {
    if (!IsOff(Get(root, feature))) return Unsupported(feature);
  }
  FEDUMM_RETURN_IF_ERROR(SetNormalizer(Get(root, "normalizer"), files));
  FEDUMM_RETURN_IF_ERROR(SetPreTokenizer(Get(root, "pre_tokenizer"), files));
  FEDUMM_RETURN_IF_ERROR(AddVocab(Get(model, "vocab"), files));
  FEDUMM_RETURN_IF_ERROR(AddMerges(Get(model, "merges"), files));
  const Json& added = Get(root, "added_tokens");
  if (!added.is_null() && !added.is_array()) {
    return absl::InvalidArgumentError("added_tokens are not a JSON array");
  }
  for (const Json& token : added) {
    FEDUMM_RETURN_IF_ERROR(AddAddedToken(Get(token, "id"), token, files));
  }
  return files;
}

absl::StatusOr<TokenizerFiles> ParseVocabAndMerges(std::string_view vocab_json,
                                                   std::string_view merges_txt,
                                                   std::string_view config_json) {
  TokenizerFiles files;
  files.nfc = true;
  files.expression = kQwenExpression;
  FEDUMM_ASSIGN_OR_RETURN(const Json vocab, ParseJson(vocab_json, "vocab.json"));
  FEDUMM_RETURN_IF_ERROR(AddVocab(vocab, files));
  while (!merges_txt.empty()) {
    const size_t end = std::min(merges_txt.find('\n'), merges_txt.size());
    std::string_view line = merges_txt.substr(0, end);
    merges_txt.remove_prefix(std::min(end + 1, merges_txt.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with("#version")) continue;
    FEDUMM_RETURN_IF_ERROR(AddMerge(line, files));
  }
  if (config_json.empty()) return files;
  FEDUMM_ASSIGN_OR_RETURN(const Json config, ParseJson(config_json, "tokenizer_config.json"));
  if (!IsOff(Get(config, "add_prefix_space"))) return Unsupported("add_prefix_space");
  const Json& added = Get(config, "added_tokens_decoder");
  if (!added.is_null() && !added.is_object()) {
    return absl::InvalidArgumentError("added_tokens_decoder is not a JSON object");
  }
  for (const auto& [key, token] : added.items()) {
    int64_t id = -1;
    if (!absl::SimpleAtoi(key, &id) || id < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("added token has no valid id: ", absl::CHexEscape(key.substr(0, 100))));
    }
    FEDUMM_RETURN_IF_ERROR(AddAddedToken(Json(static_cast<uint64_t>(id)), token, files));
  }
  return files;
}

}  // namespace fedumm::model
