#include <unistd.h>

#include <cstdio>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "fedumm/model/world.h"
#include "programs/commands.h"

namespace fedumm::programs {

absl::Status PretrainCommand(const PretrainArguments& arguments) {
  FEDUMM_ASSIGN_OR_RETURN(RunConfig config, RunConfig::Defaults(arguments.world));
  config.values.Set("model.checkpoint", arguments.folder);
  const absl::Time start = absl::Now();
  const bool terminal = isatty(STDOUT_FILENO) != 0;
  FEDUMM_RETURN_IF_ERROR(
      model::PretrainWorld(config.values, [&](const model::PretrainStep& progress) {
        // A terminal keeps one line per stage; a log gets one line in ten.
        const bool last = progress.step >= progress.steps;
        if (!terminal && !last && progress.step % 500 != 0) return;
        std::printf("%s%-9s step %5lld of %lld, loss %.4f, %.0f s%s", terminal ? "\r" : "",
                    std::string(progress.stage).c_str(), static_cast<long long>(progress.step),
                    static_cast<long long>(progress.steps), progress.loss,
                    absl::ToDoubleSeconds(absl::Now() - start), terminal && !last ? "   " : "\n");
        std::fflush(stdout);
      }));
  std::printf("wrote %s/model.safetensors\n", arguments.folder.c_str());
  return absl::OkStatus();
}

}  // namespace fedumm::programs
