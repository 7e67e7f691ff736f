// How much each way of training is given, so that they can be compared: the rule and its figures.
#pragma once

#include <cstdint>
#include <string>

#include "programs/experiment.h"
#include "programs/report/run_data.h"
#include "programs/run_config.h"

namespace fedumm::programs {

struct Budget {
  int64_t examples = 0;
  int64_t steps = 0;
};

// What the rounds of `data` gave the clients, taken together.
Budget FederatedBudget(const Experiment& experiment, const std::string& task, const RunData& data);
// What one client is given that trains by `config` in every round.
Budget ClientBudget(const Experiment& experiment, const RunConfig& config, const std::string& task);
// The settings of a training on all examples in one place that looks at as many examples as the
// federation did: batches larger by centralized.batch-factor, fewer steps by the same factor, a
// learning rate of its own, one optimizer from start to end.
RunConfig CentralizedSettings(const Experiment& experiment, const RunData& data);

void SetGiven(Bar& bar, const Budget& budget);

}  // namespace fedumm::programs
