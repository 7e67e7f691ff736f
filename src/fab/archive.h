#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace fedumm::fab {

struct ArchiveFile {
  std::string sha256;  // of the uncompressed bytes, lower-case hex
  int64_t num_bytes = 0;
  std::string content;  // only of pyproject.toml and .info/CONTENT
};

inline constexpr std::string_view kProjectPath = "pyproject.toml";
inline constexpr std::string_view kManifestPath = ".info/CONTENT";

// The files of a zip by path, each of them read to its end and checked against its CRC; folders are
// left out. INVALID_ARGUMENT for a zip that different readers could read differently, whose files
// could be written outside of a folder, or that unpacks to more than an app bundle needs.
absl::StatusOr<std::map<std::string, ArchiveFile>> ReadArchive(std::string_view bytes);

}  // namespace fedumm::fab
