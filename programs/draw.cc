#include "programs/model_commands.h"

namespace fedumm::programs {

void AddDraw(CLI::App& app, Command& command) {
  CLI::App* draw = app.add_subcommand("draw", "Draw a prompt");
  draw->callback(
      [&command] { command = [] { return absl::UnimplementedError("not there yet"); }; });
}

}  // namespace fedumm::programs
