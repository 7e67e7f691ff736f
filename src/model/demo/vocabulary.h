// The demo's sentences as token ids.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/model/config.h"
#include "fedumm/model/easy_vqa.h"

namespace fedumm::model {

inline constexpr int64_t kImageTokens = 16;  // of a 64x64 picture: 8x8 patches, merged 2x2

// One training sequence. The image is left out of `ids`: it belongs after the first of them.
struct Sequence {
  std::vector<int64_t> ids;  // vision_start, vision_end, question, im_end, answer, im_end
  int64_t num_prompt;        // the rest of `ids` is the answer that is learnt
};

// Thread-safe.
class Vocabulary {
 public:
  // Reads a tokenizer.json. INVALID_ARGUMENT unless each word of the demo is one token below
  // `config`'s vocabulary size.
  static absl::StatusOr<Vocabulary> Load(const std::string& path, const BackboneConfig& config);

  Sequence Vqa(std::string_view question, std::string_view answer) const;
  Sequence Caption(Concept shown) const;                  // "describe" -> "a red circle"
  std::vector<int64_t> DrawPrompt(Concept wanted) const;  // "draw a red circle", im_end, [IMG]
  int64_t id(std::string_view word) const;                // of a word of the demo
  std::string word(int64_t id) const;  // "" for a token that is no word of the demo

 private:
  std::vector<int64_t> Encode(std::string_view sentence) const;

  std::map<std::string, int64_t, std::less<>> ids_;
};

}  // namespace fedumm::model
