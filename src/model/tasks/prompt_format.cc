#include "model/tasks/prompt_format.h"

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace fedumm::model {
namespace {

constexpr const char* kTurnStart = "<|im_start|>";
constexpr const char* kTurnEnd = "<|im_end|>";
constexpr const char* kPictureToDraw = "[IMG]";
// What BLIP-3o was trained to draw on.
constexpr const char* kDrawRequest = "Please generate image based on the following caption: ";

std::string Shown(const std::string& text) {
  return absl::StrCat("'", absl::Utf8SafeCHexEscape(text.substr(0, 200)), "'");
}

void Append(std::vector<int64_t>& ids, std::span<const int64_t> more) {
  ids.insert(ids.end(), more.begin(), more.end());
}

// The tokenizer and the model must mean the same by the tokens around and in the place of pictures.
absl::Status CheckMarkers(const Tokenizer& tokenizer, const BackboneConfig& config) {
  const std::array<std::tuple<const char*, const char*, int64_t>, 3> markers = {{
      {"<|image_pad|>", "image_token_id", config.image_token_id},
      {"<|vision_start|>", "vision_start_token_id", config.vision_start_token_id},
      {"<|vision_end|>", "vision_end_token_id", config.vision_end_token_id},
  }};
  for (const auto& [text, field, id] : markers) {
    const std::optional<int64_t> known = tokenizer.TokenId(text);
    if (!known.has_value() || *known == id) continue;
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.json has ", text, " as token ",
                                                   *known, ", config.json has ", field, " = ", id,
                                                   ": they are of different models"));
  }
  return absl::OkStatus();
}

}  // namespace

PromptFormat::PromptFormat(Tokenizer tokenizer, const BackboneConfig& config)
    : tokenizer_(std::move(tokenizer)),
      vocab_size_(config.text.vocab_size),
      image_id_(config.image_token_id),
      markers_({config.image_token_id, config.video_token_id, config.vision_start_token_id,
                config.vision_end_token_id}) {}

absl::StatusOr<PromptFormat> PromptFormat::Create(Tokenizer tokenizer, const BackboneConfig& config,
                                                  std::string_view style, std::string instruction) {
  FEDUMM_RETURN_IF_ERROR(CheckMarkers(tokenizer, config));
  PromptFormat format(std::move(tokenizer), config);
  format.instruction_ = std::move(instruction);
  for (const char* const marker : {kTurnStart, kTurnEnd, "<|endoftext|>"}) {
    const std::optional<int64_t> id = format.tokenizer_.TokenId(marker);
    if (id.has_value()) format.markers_.push_back(*id);
  }
  const std::optional<int64_t> end = format.tokenizer_.TokenId(kTurnEnd);
  if (!end.has_value() || *end >= format.vocab_size_) {
    return absl::InvalidArgumentError(
        absl::StrCat("the model's vocabulary lacks ", kTurnEnd, ", which ends an answer"));
  }
  format.end_id_ = *end;
  format.chat_ =
      style == "chat" || (style == "auto" && format.tokenizer_.TokenId(kTurnStart).has_value());
  if (format.chat_) {
    FEDUMM_RETURN_IF_ERROR(format.SetChat(config));
  } else {
    format.before_ = {config.vision_start_token_id};
    format.middle_ = {config.vision_end_token_id};
    format.after_ = {format.end_id_};
  }
  return format;
}

absl::Status PromptFormat::SetChat(const BackboneConfig& config) {
  const std::array<ChatMessage, 1> messages = {{{.role = "user", .text = "", .images = {1}}}};
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> ids,
                          Encode(RenderChat(messages, /*for_generation=*/true)));
  const auto picture = std::find(ids.begin(), ids.end(), image_id_);
  if (picture == ids.end() || picture == ids.begin() || picture + 1 == ids.end() ||
      *(picture - 1) != config.vision_start_token_id ||
      *(picture + 1) != config.vision_end_token_id) {
    return absl::InvalidArgumentError(
        "the tokenizer's <|vision_start|>, <|image_pad|> and <|vision_end|> are not those of "
        "config.json");
  }
  before_.assign(ids.begin(), picture);
  middle_ = {config.vision_end_token_id};
  after_.assign(picture + 2, ids.end());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int64_t>> PromptFormat::Encode(const std::string& text) const {
  FEDUMM_ASSIGN_OR_RETURN(std::vector<int64_t> ids, tokenizer_.Encode(text));
  for (const int64_t id : ids) {
    if (id < vocab_size_) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the model's vocabulary of ", vocab_size_, " tokens lacks ",
                     Shown(tokenizer_.Decode({&id, 1})), " in ", Shown(text)));
  }
  return ids;
}

absl::StatusOr<std::vector<int64_t>> PromptFormat::EncodeUntrusted(const std::string& text) const {
  FEDUMM_ASSIGN_OR_RETURN(std::vector<int64_t> ids, Encode(text));
  for (const int64_t id : ids) {
    if (std::find(markers_.begin(), markers_.end(), id) == markers_.end()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("a text holds the marker ", tokenizer_.Decode({&id, 1}), ": ", Shown(text)));
  }
  return ids;
}

absl::StatusOr<std::vector<int64_t>> PromptFormat::Question(const std::string& text) const {
  // The plain form's words begin with a space, as in the middle of a sentence.
  return EncodeUntrusted(absl::StrCat(chat_ ? "" : " ", text, instruction_));
}

absl::StatusOr<std::vector<int64_t>> PromptFormat::Answer(const std::string& text) const {
  FEDUMM_ASSIGN_OR_RETURN(
      std::vector<int64_t> ids,
      EncodeUntrusted(absl::StrCat(chat_ ? "" : " ", absl::StripAsciiWhitespace(text))));
  ids.push_back(end_id_);
  return ids;
}

std::vector<int64_t> PromptFormat::Prompt(std::span<const int64_t> question,
                                          int64_t image_tokens) const {
  std::vector<int64_t> ids = before_;
  ids.insert(ids.end(), static_cast<size_t>(image_tokens), image_id_);
  Append(ids, middle_);
  Append(ids, question);
  Append(ids, after_);
  return ids;
}

absl::StatusOr<int64_t> PromptFormat::PictureToDraw() const {
  const std::optional<int64_t> begin = tokenizer_.TokenId(kPictureToDraw);
  if (begin.has_value() && *begin < vocab_size_) return *begin;
  return absl::FailedPreconditionError(absl::StrCat("the model's vocabulary lacks ", kPictureToDraw,
                                                    ", which begins a picture to draw"));
}

absl::StatusOr<std::vector<int64_t>> PromptFormat::DrawRequest(const std::string& caption,
                                                               bool ended) const {
  FEDUMM_RETURN_IF_ERROR(EncodeUntrusted(caption).status());
  if (chat_) {
    std::vector<ChatMessage> messages = {
        {.role = "user", .text = absl::StrCat(kDrawRequest, caption)}};
    if (ended) messages.push_back({.role = "assistant", .text = ""});
    return Encode(RenderChat(messages, /*for_generation=*/!ended));
  }
  FEDUMM_ASSIGN_OR_RETURN(std::vector<int64_t> ids, Encode(absl::StrCat(" draw ", caption)));
  ids.push_back(end_id_);
  return ids;
}

absl::StatusOr<std::vector<int64_t>> PromptFormat::DrawPrompt(const std::string& caption) const {
  FEDUMM_ASSIGN_OR_RETURN(const int64_t begin, PictureToDraw());
  FEDUMM_ASSIGN_OR_RETURN(std::vector<int64_t> ids, DrawRequest(caption, /*ended=*/false));
  ids.push_back(begin);
  return ids;
}

absl::StatusOr<std::vector<int64_t>> PromptFormat::DrawTrainingPrompt(const std::string& caption,
                                                                      int64_t max_tokens) const {
  FEDUMM_ASSIGN_OR_RETURN(const int64_t begin, PictureToDraw());
  FEDUMM_ASSIGN_OR_RETURN(std::vector<int64_t> ids, DrawRequest(caption, /*ended=*/true));
  ids.resize(static_cast<size_t>(std::clamp<int64_t>(max_tokens, 0, std::ssize(ids))));
  ids.push_back(begin);
  return ids;
}

std::string PromptFormat::Decode(std::span<const int64_t> answer) const {
  const std::string text = tokenizer_.Decode(answer, /*skip_added_tokens=*/true);
  return std::string(absl::StripAsciiWhitespace(text));
}

}  // namespace fedumm::model
