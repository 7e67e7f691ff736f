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
  FEDUMM_ASSIGN_OR_RETURN(const RunConfig config, RunConfig::Load(arguments.config));
  const std::string run_dir =
      arguments.run_dir.empty() ? "runs/" + config.Text("name") : arguments.run_dir;
  FEDUMM_RETURN_IF_ERROR(MakeRunDir(run_dir));
  FEDUMM_ASSIGN_OR_RETURN(const model::EasyVqa data,
                          model::EasyVqa::Load(arguments.data, config.Flag("data.negated")));
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Experiment> experiment,
                          Experiment::Create(config, data));
  // The nodes share a model of their own: a node that is late may still train while the server
  // evaluates.
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Experiment> nodes,
                          Experiment::Create(config, data));
  const std::unique_ptr<ClientApp> client = NewExperimentClient(*nodes);
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Grid> grid,
                          NewSimulation(*client, {.num_nodes = config.Integer("federation.clients"),
                                                  .run_config = config.values}));
  FEDUMM_RETURN_IF_ERROR(
      RunFederation(*experiment, *grid,
                    {.run_dir = run_dir, .command = arguments.command, .resume = arguments.resume})
          .status());
  if (!arguments.compare) return absl::OkStatus();
  CompareArguments compare;
  static_cast<CommonArguments&>(compare) = arguments;
  compare.run_dir = run_dir;
  return CompareCommand(compare);
}

}  // namespace fedumm::programs
