#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "fedumm/record.h"

namespace fedumm::fab {

// What a pyproject.toml says about a Flower app.
struct Project {
  std::string name;
  std::string version;
  std::string publisher;
  ConfigRecord config;  // of tool.flwr.app.config, keys of nested tables joined by dots
};

// INVALID_ARGUMENT, naming the key, for a text that a Flower node would refuse as an app's.
absl::StatusOr<Project> ParseProject(std::string_view toml);

}  // namespace fedumm::fab
