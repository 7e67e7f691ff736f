// Whole files: read with a size limit, written so that a crash leaves the old or the new content,
// never a torn one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fedumm {

// NOT_FOUND if there is no such file, RESOURCE_EXHAUSTED if it is larger than `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes = int64_t{1} << 32);

// Writes a temporary file beside `path`, syncs it, renames it over `path` and syncs the folder.
absl::Status WriteFileAtomically(const std::string& path, std::string_view content);

}  // namespace fedumm
