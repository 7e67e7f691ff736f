#include "programs/model_commands.h"

namespace fedumm::programs {

void AddEvaluateGeneval(CLI::App& evaluate, Command& command) {
  CLI::App* geneval = evaluate.add_subcommand("geneval", "Judge drawings by GenEval");
  geneval->callback(
      [&command] { command = [] { return absl::UnimplementedError("not there yet"); }; });
}

}  // namespace fedumm::programs
