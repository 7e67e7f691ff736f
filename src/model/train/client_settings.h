#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/model/task.h"
#include "fedumm/model/train.h"
#include "fedumm/record.h"

namespace fedumm::model {

// What one training message asks for, all settings parsed and checked.
struct ClientSettings {
  struct ActiveTask {
    Task* task;
    int64_t batch_size;
    double loss_weight;
  };

  int64_t round = 1;
  uint64_t seed = 0;
  TrainOptions train;
  bool keep_optimizer = false;
  bool gradient_checkpointing = false;
  double proximal_mu = 0;
  std::vector<ActiveTask> tasks;  // those to train that have examples, in the order of the node's
};

// The training settings of one run in this process. Not thread-safe.
class RunSettings {
 public:
  // Checks the training settings of `run_config` and completes them; logs what was filled in.
  // INVALID_ARGUMENT, naming the key, for a wrong value.
  static absl::StatusOr<RunSettings> Create(uint64_t run_id, const ConfigRecord& run_config);

  const ConfigRecord& run_config() const { return run_config_; }  // as it was given

  // The settings of a training message to a node with `tasks`; `message` may be null. Logs once for
  // each key that is unknown. INVALID_ARGUMENT, naming the key, for a wrong value.
  absl::StatusOr<ClientSettings> Parse(const ConfigRecord* message,
                                       std::span<const std::unique_ptr<Task>> tasks);

 private:
  RunSettings(uint64_t run_id, ConfigRecord run_config, ConfigRecord completed)
      : run_id_(run_id), run_config_(std::move(run_config)), completed_(std::move(completed)) {}

  // The value of a setting of TrainSettings: the message's, checked, else the run's.
  absl::StatusOr<ConfigValue> Get(const ConfigRecord* message, std::string_view key) const;
  absl::StatusOr<double> GetNumber(const ConfigRecord* message, std::string_view key) const;
  absl::StatusOr<int64_t> GetCount(const ConfigRecord* message, std::string_view key) const;
  absl::StatusOr<int64_t> NumRounds(const ConfigRecord* message) const;  // 0: unknown
  absl::StatusOr<LearningRate> ParseLearningRate(const ConfigRecord* message,
                                                 int64_t steps_per_round);
  absl::StatusOr<TrainOptions> ParseTrainOptions(const ConfigRecord* message, int64_t round);
  absl::StatusOr<ClientSettings::ActiveTask> ParseTask(const ConfigRecord* message, Task& task);
  void NameUnknownKeys(const ConfigRecord* message, std::span<const std::unique_ptr<Task>> tasks);
  bool FirstTime(std::string notice);  // false from the second call with the same text

  uint64_t run_id_;
  ConfigRecord run_config_;
  ConfigRecord completed_;  // the settings of TrainSettings under their own keys
  std::set<std::string> noticed_;
};

}  // namespace fedumm::model
