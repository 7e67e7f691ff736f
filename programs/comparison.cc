#include "programs/comparison.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"

namespace fedumm::programs {
namespace {

std::string BatchSizeKey(const TaskData& task) {
  return absl::StrCat("train.", task.name, "-batch-size");
}

// Examples of a batch, by the rule of model::TaskSettings.
int64_t BatchSize(const RunConfig& config, const TaskData& task) {
  for (const std::string& key : {BatchSizeKey(task), std::string("train.batch-size")}) {
    if (const int64_t size = config.Integer(key); size > 0) return size;
  }
  return task.default_batch_size;
}

}  // namespace

int64_t RepliesUsed(const RunData& run) {
  int64_t replies = 0;
  for (const RoundData& round : run.rounds) replies += round.num_accepted;
  return replies;
}

RunConfig CentralizedConfig(RunConfig config, const RunData& run) {
  const int64_t factor = config.Integer("centralized.batch-factor");
  for (const TaskData& task : run.tasks) {
    config.values.Set(BatchSizeKey(task), factor * BatchSize(config, task));
  }
  config.values.Set("federation.rounds",
                    std::max<int64_t>(1, (RepliesUsed(run) + factor - 1) / factor));
  config.values.Set("train.learning-rate", config.Number("centralized.learning-rate"));
  config.values.Set("train.keep-optimizer", true);  // one optimizer from start to end
  return config;
}

void SetGiven(const RunConfig& config, const TaskData& task, int64_t replies, Bar& bar) {
  bar.steps = replies * config.Integer("train.local-steps");
  bar.examples =
      bar.steps * config.Integer("train.gradient-accumulation-steps") * BatchSize(config, task);
}

}  // namespace fedumm::programs
