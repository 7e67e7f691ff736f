#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/client_app.h"
#include "fedumm/grid.h"
#include "fedumm/record.h"

namespace fedumm {

struct SimulationOptions {
  int64_t num_nodes = 2;
  int64_t num_threads =
      1;  // handlers that run side by side; more than 1 needs a ClientApp whose handlers allow it
  ConfigRecord run_config;
};

// A grid whose nodes live in this process: node i has partition-id i and num-partitions num_nodes
// in its node config, and a Context of its own. Messages pass by value, without a wire; what a
// ClientApp sees and what a Strategy gets is the same as in a deployment, so the same seed gives
// the same bits. Node ids are 2, 3, … in partition order. `app` is borrowed.
absl::StatusOr<std::unique_ptr<Grid>> NewSimulation(const ClientApp& app,
                                                    SimulationOptions options);

}  // namespace fedumm
