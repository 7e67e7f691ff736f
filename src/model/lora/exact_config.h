#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/model/peft_config.h"

namespace fedumm::model {

// `config` with each module that it selects among `paths` (in the file layout) named by its whole
// path, with the same rank and scale. It is written for the layout `from`, the result for `to`.
// INVALID_ARGUMENT for a bad pattern.
absl::StatusOr<LoraConfig> NameEachModule(const LoraConfig& config,
                                          const std::vector<std::string>& paths, ModuleLayout from,
                                          ModuleLayout to);

}  // namespace fedumm::model
