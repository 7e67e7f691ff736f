// How questions about pictures, and captions to draw, are put to a decoder.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/model/config.h"
#include "fedumm/model/tokenizer.h"

namespace fedumm::model {

// The two forms that there are:
//   chat    Qwen2.5-VL's chat template, the picture before the question
//   plain   <|vision_start|>picture<|vision_end|> question<|im_end|> answer<|im_end|>: that of the
//           pre-training of configs/tiny, a small model without chat tokens
// Immutable, thread-safe and cheap to copy.
class PromptFormat {
 public:
  // `style` is "chat", "plain" or "auto": chat if the tokenizer has "<|im_start|>". `instruction`
  // follows each question. INVALID_ARGUMENT if the model's vocabulary lacks what the form needs, or
  // if tokenizer and model differ in the tokens of pictures.
  static absl::StatusOr<PromptFormat> Create(Tokenizer tokenizer, const BackboneConfig& config,
                                             std::string_view style, std::string instruction);

  // A question's tokens. INVALID_ARGUMENT, naming the text, for text with a marker such as
  // "<|image_pad|>" in it, or with a token that the model's vocabulary lacks.
  absl::StatusOr<std::vector<int64_t>> Question(const std::string& text) const;
  // The tokens of an answer and of the end of the turn. Errors as of Question.
  absl::StatusOr<std::vector<int64_t>> Answer(const std::string& text) const;
  // The whole prompt, in which the picture takes `image_tokens` tokens.
  std::vector<int64_t> Prompt(std::span<const int64_t> question, int64_t image_tokens) const;
  // What the decoder is given before it draws: the caption and the token that begins a picture.
  // Errors as of Question; FAILED_PRECONDITION if the vocabulary has no "[IMG]".
  absl::StatusOr<std::vector<int64_t>> DrawPrompt(const std::string& caption) const;
  // The same as BLIP3o trains on it: in the form chat, the assistant's empty turn is ended before
  // the token that begins a picture. Of what precedes that token, the first `max_tokens` are kept.
  absl::StatusOr<std::vector<int64_t>> DrawTrainingPrompt(const std::string& caption,
                                                          int64_t max_tokens) const;

  int64_t end_id() const { return end_id_; }                  // ends an answer; also pads rows
  std::string Decode(std::span<const int64_t> answer) const;  // without markers and outer spaces

 private:
  PromptFormat(Tokenizer tokenizer, const BackboneConfig& config);
  absl::StatusOr<std::vector<int64_t>> Encode(const std::string& text) const;
  absl::StatusOr<std::vector<int64_t>> EncodeUntrusted(const std::string& text) const;
  absl::Status SetChat(const BackboneConfig& config);
  absl::StatusOr<int64_t> PictureToDraw() const;  // the token that begins one
  // What precedes it.
  absl::StatusOr<std::vector<int64_t>> DrawRequest(const std::string& caption, bool ended) const;

  Tokenizer tokenizer_;
  int64_t vocab_size_;
  int64_t image_id_;
  std::vector<int64_t> markers_;  // that a question may not hold
  int64_t end_id_ = 0;
  bool chat_ = false;
  std::string instruction_;
  std::vector<int64_t> before_;  // up to the picture
  std::vector<int64_t> middle_;  // between picture and question
  std::vector<int64_t> after_;   // between question and answer
};

}  // namespace fedumm::model
