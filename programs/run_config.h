// The settings of a run: one table of all keys, the TOML file that gives values, and the flat form
// in which they travel to the nodes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/record.h"
#include "fedumm/settings.h"

namespace fedumm::programs {

// Every key of a run on a world of that kind, section by section: those of the programs, of the
// strategy, of the world, of the adapter and of the clients' training. INVALID_ARGUMENT for an
// unknown kind.
absl::StatusOr<std::vector<Setting>> RunSettings(std::string_view world_kind);

// The part of it that a node reads: of the world, the adapter, the mods and the clients' training.
absl::StatusOr<std::vector<Setting>> NodeTable(std::string_view world_kind);

// A run's settings, flat and complete: [lora] r = 8 is "lora.r". Lists are joined with commas,
// because Flower's run config has scalars only. A value.
struct RunConfig {
  ConfigRecord values;

  // The defaults of a world of that kind; empty: of the default kind.
  static absl::StatusOr<RunConfig> Defaults(std::string_view world_kind = "");
  // Missing keys take the defaults. INVALID_ARGUMENT with file and line for bad TOML, a key that no
  // table has (the nearest right one is named), or a value that the key does not take.
  static absl::StatusOr<RunConfig> Load(const std::string& path);

  std::string Text(std::string_view key) const;
  // The parts of a list, without empty ones.
  std::vector<std::string> List(std::string_view key) const;
  double Number(std::string_view key) const;
  int64_t Integer(std::string_view key) const;
  bool Flag(std::string_view key) const;
};

// What a server sends to its nodes: what they read, without the settings that name files here, and
// the numbers of clients and rounds.
absl::StatusOr<ConfigRecord> SettingsForNodes(const RunConfig& config);

// The settings of `config` that name files here.
ConfigRecord LocalSettings(const RunConfig& config);

// What a node makes of the settings that its server sent.
struct NodeSettings {
  // What was received, with the defaults of the world (its tasks included), the adapter and the
  // mods for what is missing. The client of NewLoraClient completes the other training settings,
  // which depend on the message too; the note names their defaults as well.
  RunConfig config;
  // One line for the log: which keys took their defaults and which are not known here. Empty if
  // there is nothing to say.
  std::string note;
};
// Keys that name files and those under [evaluate] are ignored if the server sent them; `local` has
// this node's own files. Errors as of CompleteSettings.
absl::StatusOr<NodeSettings> SettingsOfNode(const ConfigRecord& received,
                                            const ConfigRecord& local);

// The settings as a commented TOML file that Load reads, with the values of `config`.
std::string SettingsToml(const std::vector<Setting>& table, const RunConfig& config);

// The value of a key as text. NOT_FOUND, naming the nearest key, for an unknown one.
absl::StatusOr<std::string> SettingValue(const RunConfig& config, std::string_view key);

}  // namespace fedumm::programs
