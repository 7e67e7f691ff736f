#include <cstdint>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fedumm/simulation.h"
#include "programs/commands.h"
#include "programs/experiment.h"
#include "programs/federation.h"
#include "programs/program.h"
#include "programs/results.h"

namespace fedumm::programs {
namespace {

// No other node can come: a run that needs more of them than there are would never start.
absl::Status CheckNodes(const RunConfig& config) {
  const int64_t clients = config.Integer("federation.clients");
  for (const char* key : {"federation.min-available-nodes", "federation.quorum"}) {
    const int64_t needed = config.Integer(key);
    if (needed <= clients) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("'", key, "' is ", needed, ", but 'federation.clients' is ", clients));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status SimulateCommand(const SimulateArguments& arguments) {
  FEDUMM_ASSIGN_OR_RETURN(const RunConfig config, LoadConfig(arguments));
  FEDUMM_RETURN_IF_ERROR(CheckNodes(config));
  const std::string run_dir =
      arguments.run_dir.empty() ? "runs/" + config.Text("name") : arguments.run_dir;
  FEDUMM_RETURN_IF_ERROR(MakeRunDir(run_dir));
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Experiment> experiment, Experiment::Create(config));
  // The nodes share a model of their own: a node that is late may still train while the server
  // evaluates.
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Experiment> nodes, experiment->Clone());
  FEDUMM_ASSIGN_OR_RETURN(
      const ClientApp client,
      NewExperimentClient(*nodes,
                          {.tell = PrintLine, .state_folder = run_dir + "/" + kOptimizersFolder}));
  absl::Status recorded;
  {
    FEDUMM_ASSIGN_OR_RETURN(
        const std::unique_ptr<Grid> grid,
        NewSimulation(client, {.num_nodes = config.Integer("federation.clients"),
                               .run_config = config.values}));
    FEDUMM_ASSIGN_OR_RETURN(recorded, RunFederation(*experiment, *grid,
                                                    {.run_dir = run_dir,
                                                     .command = arguments.command,
                                                     .evaluate = arguments.evaluate,
                                                     .resume = arguments.resume}));
  }
  if (!arguments.compare) return recorded;
  CompareArguments compare;
  static_cast<CommonArguments&>(compare) = arguments;
  compare.run_dir = run_dir;
  FEDUMM_RETURN_IF_ERROR(CompareCommand(compare));
  return recorded;
}

}  // namespace fedumm::programs
