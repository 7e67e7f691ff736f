#include "programs/budget.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace fedumm::programs {
namespace {

std::string BatchSizeKey(const std::string& task) {
  return absl::StrCat("train.", task, "-batch-size");
}

// Examples of a batch, by the rule of TaskSettings.
int64_t BatchSize(const Experiment& experiment, const RunConfig& config, const std::string& task) {
  for (const std::string& key : {BatchSizeKey(task), std::string("train.batch-size")}) {
    if (const int64_t size = config.Integer(key); size > 0) return size;
  }
  for (const model::TaskInfo& info : experiment.info().tasks) {
    if (info.name == task) return info.defaults.batch_size;
  }
  return 0;
}

// What `rounds` rounds of one client look at.
Budget BudgetOf(const Experiment& experiment, const RunConfig& config, const std::string& task,
                int64_t rounds) {
  const int64_t steps = rounds * config.Integer("train.local-steps");
  return {steps * config.Integer("train.gradient-accumulation-steps") *
              BatchSize(experiment, config, task),
          steps};
}

// Each stands for local-steps steps of one client.
int64_t RepliesUsed(const RunData& data) {
  int64_t accepted = 0;
  for (const RoundData& round : data.rounds) accepted += round.num_accepted;
  return accepted;
}

}  // namespace

Budget FederatedBudget(const Experiment& experiment, const std::string& task, const RunData& data) {
  return BudgetOf(experiment, experiment.config(), task, RepliesUsed(data));
}

Budget ClientBudget(const Experiment& experiment, const RunConfig& config,
                    const std::string& task) {
  return BudgetOf(experiment, config, task, config.Integer("federation.rounds"));
}

RunConfig CentralizedSettings(const Experiment& experiment, const RunData& data) {
  RunConfig config = experiment.config();
  const int64_t factor = config.Integer("centralized.batch-factor");
  for (const model::TaskInfo& task : experiment.info().tasks) {
    config.values.Set(BatchSizeKey(task.name), factor * BatchSize(experiment, config, task.name));
  }
  config.values.Set("federation.rounds",
                    std::max<int64_t>(1, (RepliesUsed(data) + factor - 1) / factor));
  config.values.Set("train.learning-rate", config.Number("centralized.learning-rate"));
  config.values.Set("train.keep-optimizer", true);
  return config;
}

void SetGiven(Bar& bar, const Budget& budget) {
  bar.examples = budget.examples;
  bar.steps = budget.steps;
}

}  // namespace fedumm::programs
