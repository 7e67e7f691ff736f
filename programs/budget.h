// How much each way of training is given, so that they can be compared: the rule and its figures.
#pragma once

#include <cstdint>
#include <string>

#include "programs/report/run_data.h"
#include "programs/run_config.h"

namespace fedumm::programs {

struct Budget {
  int64_t examples = 0;
  int64_t steps = 0;
};

// What the rounds of `data` gave the clients, taken together.
Budget FederatedBudget(const RunConfig& config, const std::string& task, const RunData& data);
// What one client is given that trains in every round.
Budget ClientBudget(const RunConfig& config, const std::string& task);
// The settings of one training on all examples in one place that looks at as many examples as the
// federation did: as many steps as a client takes, each on the batches of all clients of a round.
RunConfig CentralizedSettings(const RunConfig& config, const RunData& data);

void SetGiven(Bar& bar, const Budget& budget);

}  // namespace fedumm::programs
