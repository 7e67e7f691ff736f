// The TOML file of a run (configs/demo.toml shows every key) and the flat form in which it travels
// to the nodes.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "fedumm/record.h"

namespace fedumm::programs {

// A run's settings, flat: [lora] r = 8 is "lora.r". Lists are joined with commas, since Flower's
// run config has scalars only.
struct RunConfig {
  ConfigRecord values;

  // INVALID_ARGUMENT with file and line for bad TOML, a key that no fedumm program reads, or a
  // value of another type than expected; missing keys take the defaults.
  static absl::StatusOr<RunConfig> Load(const std::string& path);
  // What a node got from its server, with the defaults for what is missing. Unknown keys are kept.
  static absl::StatusOr<RunConfig> FromRecord(const ConfigRecord& received);

  std::string Text(std::string_view key) const;
  double Number(std::string_view key) const;
  int64_t Integer(std::string_view key) const;
  bool Flag(std::string_view key) const;
};

}  // namespace fedumm::programs
