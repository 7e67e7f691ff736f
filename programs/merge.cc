#include "programs/model_commands.h"

namespace fedumm::programs {

void AddMerge(CLI::App& app, Command& command) {
  CLI::App* merge =
      app.add_subcommand("merge", "Write a checkpoint with an adapter merged into its weights");
  merge->callback(
      [&command] { command = [] { return absl::UnimplementedError("not there yet"); }; });
}

}  // namespace fedumm::programs
