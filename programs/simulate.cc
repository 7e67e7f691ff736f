#include <memory>
#include <utility>

#include "base/status_macros.h"
#include "fedumm/simulation.h"
#include "programs/commands.h"
#include "programs/experiment.h"
#include "programs/federation.h"
#include "programs/program.h"

namespace fedumm::programs {

absl::Status SimulateCommand(const SimulateArguments& arguments) {
  FEDUMM_ASSIGN_OR_RETURN(const RunConfig config, LoadConfig(arguments));
  const std::string run_dir =
      arguments.run_dir.empty() ? "runs/" + config.Text("name") : arguments.run_dir;
  FEDUMM_RETURN_IF_ERROR(MakeRunDir(run_dir));
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Experiment> experiment, Experiment::Create(config));
  // The nodes share a model of their own: a node that is late may still train while the server
  // evaluates.
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Experiment> nodes, experiment->Clone());
  FEDUMM_ASSIGN_OR_RETURN(const ClientApp client, NewExperimentClient(*nodes));
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
