#include "model/checkpoint/safetensors_index.h"

#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/printable.h"
#include "base/status_macros.h"

namespace fedumm::model {

absl::StatusOr<SafetensorsIndex> ReadSafetensorsIndex(const std::string& path, int64_t max_bytes) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, max_bytes));
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("weight_map") || !json.at("weight_map").is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " has no weight_map"));
  }
  SafetensorsIndex index;
  for (const auto& [name, value] : json.at("weight_map").items()) {
    const std::string file = value.is_string() ? value.get<std::string>() : "";
    if (!file.ends_with(".safetensors") ||
        file.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " maps ", ValidUtf8(name, 200), " to ",
                       file.empty() ? "no file" : ValidUtf8(file, 200),
                       ", which is no safetensors file beside it"));
    }
    index.file_of[name] = file;
  }
  if (const auto metadata = json.find("metadata");
      metadata != json.end() && metadata->is_object()) {
    for (const auto& [key, value] : metadata->items()) {
      if (value.is_string()) index.metadata[key] = value.get<std::string>();
    }
  }
  return index;
}

}  // namespace fedumm::model
