// A federated fine-tuning from the server's side, over whichever grid: what fedumm-superlink and
// fedumm simulate share.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "fedumm/client_app.h"
#include "fedumm/grid.h"
#include "fedumm/strategy.h"
#include "programs/experiment.h"
#include "programs/report/run_data.h"

namespace fedumm::programs {

struct FederationOptions {
  std::string run_dir;   // metrics.jsonl, TensorBoard events, run.json, adapter/, checkpoint; made
                         // if need be
  std::string command;   // for the report
  bool evaluate = true;  // on held-out examples, as [evaluate] says
  bool resume = false;   // go on from the checkpoint in run_dir
};

// Runs the rounds of the experiment's settings, prints the live table, and leaves the result in
// run_dir.
absl::StatusOr<Result> RunFederation(Experiment& experiment, Grid& grid,
                                     const FederationOptions& options);

// The client of an experiment for nodes of this process, which share it: its tasks come from the
// partition-id of each node. `experiment` must outlive it.
std::unique_ptr<ClientApp> NewExperimentClient(Experiment& experiment);

}  // namespace fedumm::programs
