#pragma once

#include <string>

#include "absl/status/status.h"

namespace fedumm::programs {

// Prints what the model in a checkpoint folder is: sizes, parameters of each part, types, files,
// which modules an adapter can name, and the tensors. Reads the headers only; with `check` also all
// data, and INVALID_ARGUMENT names the first tensor that holds a number that is not finite. Errors
// are those of model::Load.
absl::Status InspectCheckpoint(const std::string& folder, bool check);

}  // namespace fedumm::programs
