// A federated fine-tuning from the server's side, over whichever grid: what `fedumm serve` and
// `fedumm simulate` share.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/grid.h"
#include "programs/experiment.h"

namespace fedumm::programs {

struct FederationOptions {
  std::string run_dir;   // metrics.jsonl, TensorBoard events, run.json, adapter/, checkpoint; made
                         // if need be
  std::string command;   // for the report
  bool evaluate = true;  // on held-out examples, as [evaluate] says
  bool resume = false;   // go on from the checkpoint in run_dir
};

// Runs the rounds of the experiment's settings, prints the live table, and leaves the adapter in
// run_dir. An error means that there is no new adapter; its code is INTERNAL or CANCELLED once the
// first round has begun. The value is OK, or INTERNAL if the adapter is there but something beside
// it could not be written.
absl::StatusOr<absl::Status> RunFederation(Experiment& experiment, Grid& grid,
                                           const FederationOptions& options);

}  // namespace fedumm::programs
