// Text to token ids and back, from the files that Hugging Face models come with.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace fedumm::model {

// Byte-level BPE with NFC and a regular expression before it, as Qwen2.5 uses it. Added tokens are
// found first, the leftmost and longest ones: those that are not `normalized` ("<|im_end|>") in the
// text as it stands, then the others, normalised, in the normalised text between them. Immutable,
// thread-safe and cheap to copy.
class Tokenizer {
 public:
  // Reads tokenizer.json of `folder`, or vocab.json, merges.txt and tokenizer_config.json if there
  // is none. INVALID_ARGUMENT for anything that this class would tokenize differently.
  static absl::StatusOr<Tokenizer> Load(const std::string& folder);
  static absl::StatusOr<Tokenizer> FromTokenizerJson(std::string_view tokenizer_json);
  // `config_json` may be empty: no added tokens then. Normalizer and expression are Qwen2.5's.
  static absl::StatusOr<Tokenizer> FromVocabAndMerges(std::string_view vocab_json,
                                                      std::string_view merges_txt,
                                                      std::string_view config_json);

  // INVALID_ARGUMENT if `text` is not UTF-8. Adds no token of its own.
  absl::StatusOr<std::vector<int64_t>> Encode(std::string_view text) const;
  // UTF-8: bytes that are not become U+FFFD. Ids without a token give nothing.
  std::string Decode(std::span<const int64_t> ids, bool skip_added_tokens = false) const;

  // Of a token as the files spell it: "<|image_pad|>", "Ġred".
  std::optional<int64_t> TokenId(std::string_view token) const;
  int64_t vocab_size() const;  // the highest id + 1

  // The pieces into which the regular expression cuts normalised text; every byte is in one piece.
  absl::StatusOr<std::vector<std::string>> SplitWords(std::string_view text) const;

 private:
  struct Content;
  explicit Tokenizer(std::shared_ptr<const Content> content);
  static absl::StatusOr<Tokenizer> FromContent(std::shared_ptr<Content> content);

  std::shared_ptr<const Content> content_;  // shared because copies are cheap: a vocabulary is not
};

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string text;
  std::vector<int64_t> images = {};  // tokens of each image, which come before the text
};

inline constexpr std::string_view kDefaultSystemPrompt = "You are a helpful assistant.";

// Qwen2.5-VL's chat template. The default system prompt is inserted unless the first message is a
// system message; `for_generation` opens the assistant's turn. Text that contains a marker such as
// "<|im_end|>" is taken literally, as in the reference: keep untrusted text free of them.
std::string RenderChat(std::span<const ChatMessage> messages, bool for_generation);

}  // namespace fedumm::model
