// The JSON header of a safetensors file as written, before anything is checked against the data
// behind it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace fedumm::model {

struct SafetensorsHeader {
  struct Entry {
    std::string name;
    std::string dtype;
    std::vector<uint64_t> shape;
    uint64_t begin = 0;
    uint64_t end = 0;
  };
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;
};

// Memory is bounded by a small multiple of the text. Accepts what the reference parser accepts:
// unknown fields of an entry are skipped.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json);

}  // namespace fedumm::model
