#include <cstdio>
#include <memory>
#include <string>

#include "base/status_macros.h"
#include "programs/commands.h"
#include "programs/experiment.h"
#include "programs/program.h"
#include "programs/report/format.h"

namespace fedumm::programs {
namespace {

// The world with the adapter of a folder on its model, or with a fresh one, which changes nothing.
absl::StatusOr<std::unique_ptr<Experiment>> Prepare(const CommonArguments& arguments,
                                                    const std::string& adapter) {
  FEDUMM_ASSIGN_OR_RETURN(const RunConfig config, LoadConfig(arguments));
  FEDUMM_ASSIGN_OR_RETURN(std::unique_ptr<Experiment> experiment, Experiment::Create(config));
  if (!adapter.empty()) FEDUMM_RETURN_IF_ERROR(experiment->UseAdapter(adapter));
  return experiment;
}

}  // namespace

absl::Status EvaluateCommand(const EvaluateArguments& arguments) {
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Experiment> experiment,
                          Prepare(arguments, arguments.adapter));
  FEDUMM_ASSIGN_OR_RETURN(const MetricRecord metrics,
                          experiment->Evaluate(experiment->adapter().ToArrays(), 1));
  for (const model::TaskInfo& task : experiment->info().tasks) {
    const Score score = experiment->ScoreOf(metrics, task.name);
    std::printf("%-5s %s %s", task.name.c_str(), Percent(score.all).c_str(),
                task.metric_title.c_str());
    if (!task.part_title.empty()) {
      std::printf(", %s on %s", Percent(score.part).c_str(), task.part_title.c_str());
    }
    std::printf(" (%lld held-out examples)\n",
                static_cast<long long>(NumberOr(metrics, task.count_metric, 0)));
    for (const auto& [kind, metric] : task.breakdown) {
      std::printf("      %-14s %s\n", kind.c_str(), Percent(score.OfKind(kind)).c_str());
    }
  }
  return absl::OkStatus();
}

}  // namespace fedumm::programs
