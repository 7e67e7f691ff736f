// The subcommands of `fedumm`. Each prints its result and returns an error for main to report.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "programs/run_config.h"
#include "programs/server_flags.h"

namespace fedumm::programs {

struct CommonArguments {
  std::string config = "configs/demo.toml";
  std::string data;     // in the place of data.folder; empty: as the settings say
  std::string command;  // the command line, for the report
};

// The settings that the arguments name.
absl::StatusOr<RunConfig> LoadConfig(const CommonArguments& arguments);

// Trains the frozen model of a folder from scratch by the folder's recipe and writes its weights
// there.
struct PretrainArguments {
  std::string folder = "configs/tiny";
  std::string world;  // the kind of world; empty: the default kind
};
absl::Status PretrainCommand(const PretrainArguments& arguments);

// The whole federation in this process, on virtual nodes.
struct SimulateArguments : CommonArguments {
  std::string run_dir;
  bool resume = false;
  bool evaluate = true;  // on held-out examples
  bool compare = false;  // also train alone and centralized, and write the report
};
absl::Status SimulateCommand(const SimulateArguments& arguments);

// Serves the federation to nodes of other processes and runs its strategy.
struct ServeArguments : CommonArguments {
  ServerFlags server;
  std::string fab;  // app bundle for Python nodes; empty: nodes bring their own
  std::string run_dir;
  bool resume = false;
  bool evaluate = true;
};
absl::Status ServeCommand(const ServeArguments& arguments);

// Puts a finished run beside its alternatives: each client alone, and all examples in one place.
// Writes report.html and summary.json. INVALID_ARGUMENT if the settings are not those of the run.
struct CompareArguments : CommonArguments {
  std::string run_dir;
  int64_t jobs = 2;    // trainings side by side
  double started = 0;  // Unix time from which the report counts its seconds; 0: the run's own
};
absl::Status CompareCommand(const CompareArguments& arguments);

// Held-out figures of the frozen model, or with an adapter in PEFT's format.
struct EvaluateArguments : CommonArguments {
  std::string adapter;
};
absl::Status EvaluateCommand(const EvaluateArguments& arguments);

// Prints the settings of a run as a commented TOML file, or the value of one.
struct SettingsArguments {
  std::string config;              // empty: the defaults
  std::string world;               // the kind whose defaults are printed; empty: the default kind
  std::optional<std::string> get;  // one key; unset: all of them
};
absl::Status SettingsCommand(const SettingsArguments& arguments);

// Says what a file or folder is and what is in it: a PEFT adapter, a checkpoint (safetensors), an
// .npy array, a stored object of a message.
// `check`: read all numbers of a checkpoint folder.
absl::Status InspectCommand(const std::string& path, bool check);

}  // namespace fedumm::programs
