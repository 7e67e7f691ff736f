// What a run's settings make of a checkpoint and a dataset: model, adapter, each client's tasks and
// the held-out ones.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/model/demo.h"
#include "fedumm/model/easy_vqa.h"
#include "fedumm/model/lora.h"
#include "fedumm/model/task.h"
#include "fedumm/record.h"
#include "programs/report/run_data.h"
#include "programs/run_config.h"

namespace fedumm::programs {

// One backbone with one adapter on it. Not thread-safe; several can live in one process and share
// the data.
class Experiment {
 public:
  // `data` must outlive it.
  static absl::StatusOr<std::unique_ptr<Experiment>> Create(const RunConfig& config,
                                                            const model::EasyVqa& data);

  const RunConfig& config() const { return config_; }
  model::DemoWorld& world() { return *world_; }
  model::LoraAdapter& adapter() { return *adapter_; }
  // Puts the adapter of a folder in PEFT's format in the place of the fresh one, with the settings
  // of its own adapter_config.json.
  absl::Status UseAdapter(const std::string& folder);

  // The tasks of one client's share of the examples. The same settings deal the same shares in
  // every process.
  absl::StatusOr<std::vector<std::unique_ptr<model::Task>>> TasksOf(int64_t partition_id,
                                                                    int64_t num_partitions);
  // What client `partition_id` holds, for the report.
  absl::StatusOr<ClientData> Describe(int64_t partition_id, int64_t num_partitions);

  // Held-out figures under `arrays` (every `stride`th question): "vqa-accuracy",
  // "draw-accuracy-new", …
  absl::StatusOr<MetricRecord> Evaluate(const ArrayRecord& arrays, int64_t stride);

  int64_t AdapterBytes() const;
  int64_t FullModelBytes();

 private:
  Experiment(RunConfig config, std::unique_ptr<model::DemoWorld> world)
      : config_(std::move(config)), world_(std::move(world)) {}
  absl::StatusOr<std::vector<std::vector<int64_t>>> Shares(const std::string& task,
                                                           int64_t num_partitions);
  absl::StatusOr<std::unique_ptr<model::Task>> NewTask(const std::string& task,
                                                       std::vector<int64_t> share, int64_t stride);
  // What the partitioner deals by, one per example.
  std::vector<std::string> LabelsOf(const std::string& task) const;

  RunConfig config_;
  std::unique_ptr<model::DemoWorld> world_;
  std::unique_ptr<model::LoraAdapter> adapter_;
};

// The score of one task out of metrics as Evaluate gives them.
Score ScoreOf(const MetricRecord& metrics, const std::string& task);
// The tasks of a run, in the order of its settings.
std::vector<std::string> TaskNames(const RunConfig& config);

}  // namespace fedumm::programs
