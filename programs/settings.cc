#include <cstdio>
#include <string>
#include <vector>

#include "base/status_macros.h"
#include "programs/commands.h"

namespace fedumm::programs {

absl::StatusOr<RunConfig> LoadConfig(const CommonArguments& arguments) {
  FEDUMM_ASSIGN_OR_RETURN(RunConfig config, RunConfig::Load(arguments.config));
  if (!arguments.data.empty()) config.values.Set("data.folder", arguments.data);
  return config;
}

absl::Status SettingsCommand(const SettingsArguments& arguments) {
  FEDUMM_ASSIGN_OR_RETURN(const RunConfig config, arguments.config.empty()
                                                      ? RunConfig::Defaults(arguments.world)
                                                      : RunConfig::Load(arguments.config));
  if (arguments.get.has_value()) {
    FEDUMM_ASSIGN_OR_RETURN(const std::string value, SettingValue(config, *arguments.get));
    std::printf("%s\n", value.c_str());
    return absl::OkStatus();
  }
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<Setting> table, RunSettings(config.Text("world.kind")));
  std::printf("%s", SettingsToml(table, config).c_str());
  return absl::OkStatus();
}

}  // namespace fedumm::programs
