#include "programs/budget.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace fedumm::programs {
namespace {

constexpr const char* kAccumulation = "train.gradient-accumulation-steps";

// Examples of one task in one step of one client.
int64_t ExamplesInStep(const RunConfig& config, const std::string& task) {
  const std::string own = absl::StrCat("train.", task, "-batch-size");
  const int64_t batch = config.Integer(config.values.contains(own) ? own : "train.batch-size");
  return batch * config.Integer(kAccumulation);
}

int64_t AcceptedReplies(const RunData& data) {
  int64_t accepted = 0;
  for (const RoundData& round : data.rounds) accepted += round.num_accepted;
  return accepted;
}

}  // namespace

Budget FederatedBudget(const RunConfig& config, const std::string& task, const RunData& data) {
  const int64_t steps = config.Integer("train.local-steps");
  const int64_t rounds = data.rounds.empty() ? 0 : data.rounds.back().number;
  return {AcceptedReplies(data) * steps * ExamplesInStep(config, task), rounds * steps};
}

Budget ClientBudget(const RunConfig& config, const std::string& task) {
  const int64_t steps = config.Integer("federation.rounds") * config.Integer("train.local-steps");
  return {steps * ExamplesInStep(config, task), steps};
}

RunConfig CentralizedSettings(const RunConfig& config, const RunData& data) {
  const double rounds = data.rounds.empty() ? 0 : static_cast<double>(data.rounds.back().number);
  const double per_round = rounds > 0 ? static_cast<double>(AcceptedReplies(data)) / rounds : 1.0;
  RunConfig centralized = config;
  centralized.values.Set(
      kAccumulation, config.Integer(kAccumulation) * std::max<int64_t>(1, std::llround(per_round)));
  centralized.values.Set("train.keep-optimizer", true);
  return centralized;
}

void SetGiven(Bar& bar, const Budget& budget) {
  bar.examples = budget.examples;
  bar.steps = budget.steps;
}

}  // namespace fedumm::programs
