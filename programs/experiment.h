// What a run's settings make: a world with one adapter on its model.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/client_app.h"
#include "fedumm/model/client.h"
#include "fedumm/model/lora.h"
#include "fedumm/model/world.h"
#include "fedumm/record.h"
#include "programs/report/run_data.h"
#include "programs/run_config.h"

namespace fedumm::programs {

// Not thread-safe; several can live in one process.
class Experiment {
 public:
  static absl::StatusOr<std::unique_ptr<Experiment>> Create(const RunConfig& config);
  // The same with a model of its own and a fresh adapter.
  absl::StatusOr<std::unique_ptr<Experiment>> Clone();

  const RunConfig& config() const { return config_; }
  const model::WorldInfo& info() const { return info_; }
  model::World& world() { return *world_; }
  model::LoraAdapter& adapter() { return *adapter_; }
  // Puts the adapter of a folder in PEFT's format in the place of the fresh one, with the settings
  // of its own adapter_config.json.
  absl::Status UseAdapter(const std::string& folder);

  // Held-out figures under `arrays`, on every `stride`th example.
  absl::StatusOr<MetricRecord> Evaluate(const ArrayRecord& arrays, int64_t stride);

  std::vector<TaskData> Tasks() const;
  Score ScoreOf(const MetricRecord& metrics, const std::string& task) const;
  int64_t AdapterBytes() const;

 private:
  Experiment(RunConfig config, std::unique_ptr<model::World> world)
      : config_(std::move(config)), world_(std::move(world)), info_(world_->Info()) {}
  static absl::StatusOr<std::unique_ptr<Experiment>> WithAdapter(
      const RunConfig& config, std::unique_ptr<model::World> world);

  RunConfig config_;
  std::unique_ptr<model::World> world_;
  model::WorldInfo info_;
  std::unique_ptr<model::LoraAdapter> adapter_;
};

// The client of an experiment for nodes of this process, which share it: its tasks come from the
// partition-id of each node, its mods from the settings. `options` are those of the client;
// `experiment`, which must outlive it, adds the model.
absl::StatusOr<ClientApp> NewExperimentClient(Experiment& experiment,
                                              model::LoraClientOptions options = {});

}  // namespace fedumm::programs
