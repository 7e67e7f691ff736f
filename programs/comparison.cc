#include "programs/comparison.h"

#include <algorithm>

namespace fedumm::programs {

int64_t RepliesUsed(const RunData& run) {
  int64_t replies = 0;
  for (const RoundData& round : run.rounds) {
    replies += std::count_if(round.nodes.begin(), round.nodes.end(),
                             [](const NodeRound& node) { return node.accepted; });
  }
  return replies;
}

RunConfig CentralizedConfig(RunConfig config, int64_t replies) {
  const int64_t factor = config.Integer("centralized.batch-factor");
  for (const std::string key : {"train.vqa-batch-size", "train.draw-batch-size"}) {
    config.values.Set(key, factor * config.Integer(key));
  }
  config.values.Set("federation.rounds", std::max<int64_t>(1, (replies + factor - 1) / factor));
  config.values.Set("train.learning-rate", config.Number("centralized.learning-rate"));
  config.values.Set("train.keep-optimizer", true);  // one optimizer from start to end
  config.values.Set("data.partitioner", "iid");     // into one part: everything
  return config;
}

Given GivenOf(const RunConfig& config, const std::string& task, int64_t replies) {
  const int64_t steps = replies * config.Integer("train.local-steps");
  return {.steps = steps,
          .examples = steps * config.Integer("train.gradient-accumulation-steps") *
                      config.Integer("train." + task + "-batch-size")};
}

}  // namespace fedumm::programs
