// The subcommands of `fedumm` that work on a checkpoint folder. Each function adds its own to
// `app`, and sets `command` where the user chose it.
#pragma once

#include <functional>

#include "CLI/App.hpp"
#include "absl/status/status.h"

namespace fedumm::programs {

using Command = std::function<absl::Status()>;

void AddAnswer(CLI::App& app, Command& command);
void AddConvert(CLI::App& app, Command& command);
void AddDraw(CLI::App& app, Command& command);
void AddEncode(CLI::App& app, Command& command);
void AddMerge(CLI::App& app, Command& command);
// These go under `fedumm evaluate`.
void AddEvaluateVqa(CLI::App& evaluate, Command& command);
void AddEvaluateGeneval(CLI::App& evaluate, Command& command);

}  // namespace fedumm::programs
