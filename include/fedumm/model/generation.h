// How text is generated: the fields of generation_config.json that fedumm obeys.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fedumm::model {

// transformers' names, defaults and order of application.
struct GenerationSettings {
  int64_t max_new_tokens = 16;
  std::vector<int64_t> stop_ids;  // eos_token_id: a row ends with the first, which is not returned
  double repetition_penalty = 1;  // over the prompt and what was generated; greedy too
  bool do_sample = false;         // false: always the most probable token
  double temperature = 1;         // the rest is for sampling only
  int64_t top_k = 0;              // 0: any number
  double top_p = 1;
  double min_p = 0;
  uint64_t seed = 0;  // equal seeds draw the same tokens

  // INVALID_ARGUMENT, naming the field and its range.
  absl::Status Validate() const;
};

// Reads a generation_config.json; what it does not say keeps the default (top_k: 50, as in
// transformers). INVALID_ARGUMENT for a
// field of a wrong type or out of range; UNIMPLEMENTED, naming it, for one that would change the
// text in a way that fedumm does not compute (beams, other penalties, forced tokens).
absl::StatusOr<GenerationSettings> ParseGenerationConfig(std::string_view json,
                                                         int64_t default_max_new_tokens = 16);

}  // namespace fedumm::model
