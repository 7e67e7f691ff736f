#include "fedumm/model/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "model/data/bpe.h"
#include "model/data/byte_level.h"
#include "model/data/regex_split.h"
#include "model/data/tokenizer_files.h"
#include "model/data/utf8.h"

namespace fedumm::model {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{1} << 28;

// Finds added tokens in a text: the leftmost one, and the longest of those that begin there.
class AddedTokenTrie {
 public:
  // The first of two equal tokens counts.
  void Add(std::string_view token, int64_t id) {
    uint32_t node = 0;
    for (const char byte : token) {
      const auto [it, added] = children_.try_emplace(Key(node, byte), next_node_);
      if (added) ++next_node_;
      node = it->second;
    }
    ids_.try_emplace(node, id);
  }

  // Calls on_text with each piece of `text` between tokens (some are empty), on_token with each id.
  template <typename OnText, typename OnToken>
  absl::Status Split(std::string_view text, const OnText& on_text, const OnToken& on_token) const {
    size_t begin = 0;  // of the text that no token has taken yet
    for (size_t i = 0; i < text.size();) {
      const auto [length, id] = Match(text.substr(i));
      if (length == 0) {
        ++i;
        continue;
      }
      FEDUMM_RETURN_IF_ERROR(on_text(text.substr(begin, i - begin)));
      on_token(id);
      i += length;
      begin = i;
    }
    return on_text(text.substr(begin));
  }

 private:
  // The token's length (0 if none begins here) and id.
  std::pair<size_t, int64_t> Match(std::string_view text) const {
    std::pair<size_t, int64_t> longest = {0, 0};
    uint32_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      const auto child = children_.find(Key(node, text[i]));
      if (child == children_.end()) break;
      node = child->second;
      if (const auto id = ids_.find(node); id != ids_.end()) longest = {i + 1, id->second};
    }
    return longest;
  }

  static uint64_t Key(uint32_t node, char byte) {
    return (uint64_t{node} << 8) | static_cast<uint8_t>(byte);
  }

  absl::flat_hash_map<uint64_t, uint32_t> children_;
  absl::flat_hash_map<uint32_t, int64_t> ids_;
  uint32_t next_node_ = 1;
};

struct Token {
  std::string bytes;
  bool added = false;
};

std::string Quoted(const std::string& token) {
  return absl::StrCat("'", absl::CHexEscape(token.substr(0, 100)), "'");
}

}  // namespace

struct Tokenizer::Content {
  absl::Status Build();
  absl::Status AddMerges();
  absl::Status AddAddedTokens();
  absl::StatusOr<std::string> Normalize(std::string_view text) const;
  absl::Status EncodeText(std::string_view text, std::vector<int64_t>& ids) const;
  absl::Status EncodeWords(std::string_view text, std::vector<int64_t>& ids) const;

  TokenizerFiles files;
  std::optional<RegexSplit> split;
  BpeMerges merges;
  AddedTokenTrie added_tokens;             // in the text as it stands
  AddedTokenTrie normalized_added_tokens;  // in the normalised text, where they are normalised too
  absl::flat_hash_map<int64_t, Token> tokens;
  int64_t vocab_size = 0;
};

absl::Status Tokenizer::Content::Build() {
  if (!files.expression.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(split, RegexSplit::Compile(files.expression));
  }
  for (const auto& [letters, id] : files.vocab) {
    std::optional<std::string> bytes = FromByteLevel(letters);
    if (!bytes.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", Quoted(letters), " is not in the byte-level alphabet"));
    }
    if (!tokens.try_emplace(id, Token{*std::move(bytes)}).second) {
      return absl::InvalidArgumentError(absl::StrCat("two tokens have the id ", id));
    }
    vocab_size = std::max(vocab_size, id + 1);
  }
  FEDUMM_RETURN_IF_ERROR(AddMerges());
  return AddAddedTokens();
}

absl::Status Tokenizer::Content::AddMerges() {
  const auto id_of = [&](const std::string& token) -> absl::StatusOr<int32_t> {
    const auto it = files.vocab.find(token);
    if (it == files.vocab.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", Quoted(token), " is not in the vocabulary"));
    }
    return static_cast<int32_t>(it->second);
  };
  std::array<int32_t, 256> byte_ids;
  for (size_t byte = 0; byte < byte_ids.size(); ++byte) {
    const char c = static_cast<char>(byte);
    FEDUMM_ASSIGN_OR_RETURN(byte_ids[byte], id_of(ToByteLevel({&c, 1})));
  }
  merges.SetBytes(byte_ids);
  for (const auto& [left, right] : files.merges) {
    FEDUMM_ASSIGN_OR_RETURN(const int32_t left_id, id_of(left));
    FEDUMM_ASSIGN_OR_RETURN(const int32_t right_id, id_of(right));
    FEDUMM_ASSIGN_OR_RETURN(const int32_t merged_id, id_of(left + right));
    merges.Add(left_id, right_id, merged_id);
  }
  files.merges.clear();
  files.merges.shrink_to_fit();
  return absl::OkStatus();
}

absl::Status Tokenizer::Content::AddAddedTokens() {
  for (const auto& [id, content, normalized] : files.added_tokens) {
    const auto known = files.vocab.find(content);
    if (known != files.vocab.end() ? known->second != id : tokens.contains(id)) {
      return absl::InvalidArgumentError(
          absl::StrCat("added token ", Quoted(content), " has the id of another token: ", id));
    }
    files.vocab[content] = id;
    tokens[id] = {content, /*added=*/true};
    if (normalized) {
      FEDUMM_ASSIGN_OR_RETURN(const std::string text, Normalize(content));
      normalized_added_tokens.Add(text, id);
    } else {
      added_tokens.Add(content, id);
    }
    vocab_size = std::max(vocab_size, id + 1);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Tokenizer::Content::Normalize(std::string_view text) const {
  if (!files.nfc) return std::string(text);
  return Nfc(text);
}

// Encodes text between the added tokens that are looked for in the text as it stands.
absl::Status Tokenizer::Content::EncodeText(std::string_view text,
                                            std::vector<int64_t>& ids) const {
  FEDUMM_ASSIGN_OR_RETURN(const std::string normalized, Normalize(text));
  return normalized_added_tokens.Split(
      normalized, [&](std::string_view piece) { return EncodeWords(piece, ids); },
      [&](int64_t id) { ids.push_back(id); });
}

// Encodes normalised text between added tokens.
absl::Status Tokenizer::Content::EncodeWords(std::string_view text,
                                             std::vector<int64_t>& ids) const {
  if (!split.has_value()) {
    merges.Encode(text, ids);
    return absl::OkStatus();
  }
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<std::string_view> pieces, split->Split(text));
  for (const std::string_view piece : pieces) merges.Encode(piece, ids);
  return absl::OkStatus();
}

Tokenizer::Tokenizer(std::shared_ptr<const Content> content) : content_(std::move(content)) {}

absl::StatusOr<Tokenizer> Tokenizer::FromContent(std::shared_ptr<Content> content) {
  FEDUMM_RETURN_IF_ERROR(content->Build());
  return Tokenizer(std::move(content));
}

absl::StatusOr<Tokenizer> Tokenizer::Load(const std::string& folder) {
  const auto read = [&](const char* name) {
    return ReadFile(absl::StrCat(folder, "/", name), kMaxFileBytes);
  };
  const absl::StatusOr<std::string> tokenizer_json = read("tokenizer.json");
  if (tokenizer_json.ok()) return FromTokenizerJson(*tokenizer_json);
  if (!absl::IsNotFound(tokenizer_json.status())) return tokenizer_json.status();
  FEDUMM_ASSIGN_OR_RETURN(const std::string vocab, read("vocab.json"));
  FEDUMM_ASSIGN_OR_RETURN(const std::string merges, read("merges.txt"));
  FEDUMM_ASSIGN_OR_RETURN(const std::string config, read("tokenizer_config.json"));
  return FromVocabAndMerges(vocab, merges, config);
}

absl::StatusOr<Tokenizer> Tokenizer::FromTokenizerJson(std::string_view tokenizer_json) {
  auto content = std::make_shared<Content>();
  FEDUMM_ASSIGN_OR_RETURN(content->files, ParseTokenizerJson(tokenizer_json));
  return FromContent(std::move(content));
}

absl::StatusOr<Tokenizer> Tokenizer::FromVocabAndMerges(std::string_view vocab_json,
                                                        std::string_view merges_txt,
                                                        std::string_view config_json) {
  auto content = std::make_shared<Content>();
  FEDUMM_ASSIGN_OR_RETURN(content->files, ParseVocabAndMerges(vocab_json, merges_txt, config_json));
  return FromContent(std::move(content));
}

absl::StatusOr<std::vector<int64_t>> Tokenizer::Encode(std::string_view text) const {
  if (!IsUtf8(text)) return absl::InvalidArgumentError("text to encode is not UTF-8");
  std::vector<int64_t> ids;
  FEDUMM_RETURN_IF_ERROR(content_->added_tokens.Split(
      text, [&](std::string_view piece) { return content_->EncodeText(piece, ids); },
      [&](int64_t id) { ids.push_back(id); }));
  return ids;
}

std::string Tokenizer::Decode(std::span<const int64_t> ids, bool skip_added_tokens) const {
  std::string bytes;
  for (const int64_t id : ids) {
    const auto it = content_->tokens.find(id);
    if (it == content_->tokens.end() || (it->second.added && skip_added_tokens)) continue;
    bytes += it->second.bytes;
  }
  return IsUtf8(bytes) ? bytes : EncodeUtf8(DecodeUtf8(bytes));
}

std::optional<int64_t> Tokenizer::TokenId(std::string_view token) const {
  const auto it = content_->files.vocab.find(std::string(token));
  if (it == content_->files.vocab.end()) return std::nullopt;
  return it->second;
}

int64_t Tokenizer::vocab_size() const { return content_->vocab_size; }

absl::StatusOr<std::vector<std::string>> Tokenizer::SplitWords(std::string_view text) const {
  if (!IsUtf8(text)) return absl::InvalidArgumentError("text to split is not UTF-8");
  if (!content_->split.has_value()) return std::vector<std::string>{std::string(text)};
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<std::string_view> pieces, content_->split->Split(text));
  return std::vector<std::string>(pieces.begin(), pieces.end());
}

}  // namespace fedumm::model
