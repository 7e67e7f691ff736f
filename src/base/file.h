// Whole files: read with a size limit, written so that a crash leaves the old or the new content,
// never a torn one.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fedumm {

// NOT_FOUND if there is no such file, RESOURCE_EXHAUSTED if it is larger than `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes = int64_t{1} << 32);

// Writes a temporary file beside `path`, syncs it, renames it over `path` and syncs the folder. The
// content may come in pieces.
absl::Status WriteFileAtomically(const std::string& path, std::string_view content);
absl::Status WriteFileAtomically(const std::string& path, std::span<const std::string_view> pieces);

// Writes all of `content` to a file that is open. `path` is for the error.
absl::Status WriteAll(int fd, std::string_view content, const std::string& path);
// Up to `num_bytes` from a file that is open, fewer only at its end.
absl::StatusOr<size_t> ReadUpTo(int fd, char* out, size_t num_bytes, const std::string& path);

}  // namespace fedumm
