#include "programs/model_commands.h"

namespace fedumm::programs {

void AddAnswer(CLI::App& app, Command& command) {
  CLI::App* answer = app.add_subcommand("answer", "Answer a question about a picture");
  answer->callback(
      [&command] { command = [] { return absl::UnimplementedError("not there yet"); }; });
}

}  // namespace fedumm::programs
