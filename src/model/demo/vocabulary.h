// Converts the demo's sentences to token ids.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/model/config.h"
#include "fedumm/model/easy_vqa.h"
#include "fedumm/model/tokenizer.h"

namespace fedumm::model {

inline constexpr int64_t kImageTokens = 16;  // of a 64x64 picture: 8x8 patches, merged 2x2

// One training sequence. The image's tokens are not in `ids`; they are inserted after the first.
struct Sequence {
  std::vector<int64_t> ids;  // vision_start, vision_end, question, im_end, answer, im_end
  int64_t num_prompt;        // ids from here on are the answer, which is trained on
};

// Thread-safe. Every word includes the space before it: it is then one token at any position.
class Vocabulary {
 public:
  // Reads the tokenizer of `folder`. INVALID_ARGUMENT unless it fits `config` and each colour,
  // shape and other word of a drawing's prompt is one token.
  static absl::StatusOr<Vocabulary> Load(const std::string& folder, const BackboneConfig& config);

  absl::StatusOr<Sequence> Vqa(const std::string& question, const std::string& answer) const;
  absl::StatusOr<Sequence> Caption(Concept shown) const;  // "describe" -> "a red circle"
  std::vector<int64_t> DrawPrompt(Concept wanted) const;  // "draw a red circle", im_end, [IMG]
  std::string Word(int64_t id) const;                     // without the space

 private:
  Vocabulary(Tokenizer tokenizer, int64_t size) : tokenizer_(std::move(tokenizer)), size_(size) {}
  absl::StatusOr<std::vector<int64_t>> Encode(const std::string& sentence) const;
  absl::StatusOr<int64_t> Id(const std::string& text) const;

  Tokenizer tokenizer_;
  int64_t size_;  // of the model's vocabulary
  std::array<int64_t, kColors.size()> colors_;
  std::array<int64_t, kShapes.size()> shapes_;
  int64_t draw_, a_, im_end_, vision_start_, vision_end_, image_start_;
};

}  // namespace fedumm::model
