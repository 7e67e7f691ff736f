#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"

namespace fedumm::model {

// The index of a checkpoint's or a latent folder's shards (*.safetensors.index.json).
struct SafetensorsIndex {
  std::map<std::string, std::string> file_of;   // tensor -> name of a file beside the index
  std::map<std::string, std::string> metadata;  // those of its entries that are texts
};

// NOT_FOUND without the file; RESOURCE_EXHAUSTED beyond `max_bytes`; INVALID_ARGUMENT, naming the
// tensor, unless each one is in a .safetensors file beside the index: an index is untrusted.
absl::StatusOr<SafetensorsIndex> ReadSafetensorsIndex(const std::string& path, int64_t max_bytes);

}  // namespace fedumm::model
