#include "programs/model_commands.h"

namespace fedumm::programs {

void AddEncode(CLI::App& app, Command& command) {
  CLI::App* encode =
      app.add_subcommand("encode", "Turn pictures into the latents that drawing is trained on");
  encode->callback(
      [&command] { command = [] { return absl::UnimplementedError("not there yet"); }; });
}

}  // namespace fedumm::programs
