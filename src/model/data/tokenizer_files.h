// The content of the two file formats of a byte-level BPE tokenizer, in one form.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"

namespace fedumm::model {

struct TokenizerFiles {
  struct AddedToken {
    int64_t id;
    std::string content;
    bool normalized;  // looked for in the normalised text, not in the text as it stands
  };
  bool nfc = false;
  std::string expression;                           // empty: text is not split
  absl::flat_hash_map<std::string, int64_t> vocab;  // in the byte-level alphabet
  std::vector<std::pair<std::string, std::string>> merges;
  std::vector<AddedToken> added_tokens;
};

// INVALID_ARGUMENT for malformed files and for every setting that is not implemented, by its name.
absl::StatusOr<TokenizerFiles> ParseTokenizerJson(std::string_view tokenizer_json);
absl::StatusOr<TokenizerFiles> ParseVocabAndMerges(std::string_view vocab_json,
                                                   std::string_view merges_txt,
                                                   std::string_view config_json);

}  // namespace fedumm::model
