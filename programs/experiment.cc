#include "programs/experiment.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/status_macros.h"
#include "fedumm/model/client.h"

namespace fedumm::programs {
namespace {

// Node ids are drawn at random; the report tells clients apart by their partition.
absl::StatusOr<RecordDict> AddPartition(const Message& message, Context& context,
                                        const ClientAppCall& next) {
  FEDUMM_ASSIGN_OR_RETURN(RecordDict reply, next(message, context));
  if (const MetricRecord* metrics = reply.FindMetrics("metrics"); metrics != nullptr) {
    MetricRecord with_partition = *metrics;
    with_partition.Set("partition-id", NumberOr(context.node_config, "partition-id", -1));
    reply.Set("metrics", std::move(with_partition));
  }
  return reply;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Experiment>> Experiment::WithAdapter(
    const RunConfig& config, std::unique_ptr<model::World> world) {
  std::unique_ptr<Experiment> experiment(new Experiment(config, std::move(world)));
  FEDUMM_ASSIGN_OR_RETURN(experiment->adapter_,
                          model::NewAdapter(*experiment->world_, config.values));
  return experiment;
}

absl::StatusOr<std::unique_ptr<Experiment>> Experiment::Create(const RunConfig& config) {
  FEDUMM_ASSIGN_OR_RETURN(std::unique_ptr<model::World> world, model::NewWorld(config.values));
  return WithAdapter(config, std::move(world));
}

absl::StatusOr<std::unique_ptr<Experiment>> Experiment::Clone() {
  FEDUMM_ASSIGN_OR_RETURN(std::unique_ptr<model::World> world, world_->Clone());
  return WithAdapter(config_, std::move(world));
}

absl::Status Experiment::UseAdapter(const std::string& folder) {
  adapter_.reset();  // the linears take one adapter at a time
  FEDUMM_ASSIGN_OR_RETURN(adapter_, model::LoraAdapter::Load(world_->Linears(), folder));
  return absl::OkStatus();
}

absl::StatusOr<MetricRecord> Experiment::Evaluate(const ArrayRecord& arrays, int64_t stride) {
  FEDUMM_RETURN_IF_ERROR(adapter_->FromArrays(arrays));
  adapter_->StopTraining();
  return world_->Evaluate(stride);
}

std::vector<TaskData> Experiment::Tasks() const {
  std::vector<TaskData> tasks;
  for (const model::TaskInfo& info : info_.tasks) {
    tasks.push_back({info.name, info.title, info.metric, info.metric_title, info.part_title,
                     info.holding_title, info.defaults.batch_size});
    for (const auto& [kind, metric] : info.breakdown) tasks.back().kinds.push_back(kind);
  }
  return tasks;
}

Score Experiment::ScoreOf(const MetricRecord& metrics, const std::string& task) const {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const model::TaskInfo& info : info_.tasks) {
    if (info.name != task) continue;
    Score score{NumberOr(metrics, info.metric, nan), NumberOr(metrics, info.part_metric, nan)};
    for (const auto& [kind, metric] : info.breakdown) {
      if (metrics.contains(metric)) score.kinds[kind] = NumberOr(metrics, metric, nan);
    }
    return score;
  }
  return {nan, nan};
}

int64_t Experiment::AdapterBytes() const {
  int64_t bytes = 0;
  for (const auto& [key, array] : adapter_->ToArrays()) {
    bytes += static_cast<int64_t>(array.bytes().size());
  }
  return bytes;
}

absl::StatusOr<ClientApp> NewExperimentClient(Experiment& experiment,
                                              model::LoraClientOptions options) {
  options.model = experiment.world().Model();
  ClientApp client = model::NewLoraClient(
      experiment.adapter(),
      [&experiment](int64_t partition_id, int64_t num_partitions) {
        return experiment.world().ClientTasks(partition_id, num_partitions);
      },
      std::move(options));
  const RunConfig& config = experiment.config();
  FEDUMM_ASSIGN_OR_RETURN(std::vector<Mod> mods, ModsFromNames(config.List("mods"), config.values));
  // Each Wrap goes around those before it, and the first mod of the list must be the outermost.
  std::reverse(mods.begin(), mods.end());
  for (Mod& mod : mods) client.Wrap(std::move(mod));
  client.Wrap(AddPartition);
  return client;
}

}  // namespace fedumm::programs
