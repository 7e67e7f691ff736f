#include "model/world/labelled_world.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "model/world/shares.h"

namespace fedumm::model {

std::vector<std::string> TasksOf(const ConfigRecord& settings) {
  return absl::StrSplit(TextOr(settings, "train.tasks", ""), ',', absl::SkipEmpty());
}

std::vector<int64_t> Judging::Indices(int64_t count) const {
  if (own.has_value()) return *own;
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < count; i += stride) indices.push_back(i);
  return indices;
}

namespace {

// A client among those that have a task.
struct Place {
  int64_t partition_id;
  int64_t num_partitions;
};

// Nothing if the client does not have the task: see "data.client-tasks".
std::optional<Place> PlaceOf(const ConfigRecord& settings, const std::string& task,
                             int64_t partition_id, int64_t num_partitions) {
  const std::vector<std::string> entries =
      absl::StrSplit(TextOr(settings, "data.client-tasks", ""), ',', absl::SkipEmpty());
  if (entries.empty() || num_partitions == 1) return Place{partition_id, num_partitions};
  std::optional<Place> place;
  int64_t count = 0;
  for (int64_t client = 0; client < num_partitions; ++client) {
    const std::string& entry = entries[static_cast<size_t>(client) % entries.size()];
    if (entry != task && entry != "all") continue;
    if (client == partition_id) place = {count, 0};
    ++count;
  }
  if (place.has_value()) place->num_partitions = count;
  return place;
}

}  // namespace

std::vector<NamedLinear> LabelledWorld::Linears() { return model().Linears(); }

UnifiedModel* LabelledWorld::Model() { return &model(); }

int64_t LabelledWorld::ModelBytes() const {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : model().Parameters()) {
    bytes += static_cast<int64_t>(tensor->nbytes());
  }
  return bytes;
}

absl::StatusOr<std::vector<std::unique_ptr<Task>>> LabelledWorld::ClientTasks(
    int64_t partition_id, int64_t num_partitions) {
  FEDUMM_RETURN_IF_ERROR(CheckPartition(partition_id, num_partitions));
  FEDUMM_RETURN_IF_ERROR(CheckClientTasks());
  std::vector<std::unique_ptr<Task>> tasks;
  for (const std::string& name : tasks_) {
    const auto place = PlaceOf(settings_, name, partition_id, num_partitions);
    if (!place.has_value()) continue;
    FEDUMM_ASSIGN_OR_RETURN(ClientShare share, ShareOf(settings_, LabelsOf(name),
                                                       place->partition_id, place->num_partitions));
    FEDUMM_ASSIGN_OR_RETURN(std::unique_ptr<Task> task,
                            NewTask(name, std::move(share.train), {.own = std::move(share.test)}));
    tasks.push_back(std::move(task));
  }
  return tasks;
}

absl::StatusOr<std::vector<Holding>> LabelledWorld::Describe(int64_t partition_id,
                                                             int64_t num_partitions) {
  FEDUMM_RETURN_IF_ERROR(CheckPartition(partition_id, num_partitions));
  std::vector<Holding> holdings;
  for (const std::string& name : tasks_) {
    const auto place = PlaceOf(settings_, name, partition_id, num_partitions);
    if (!place.has_value()) continue;
    const std::vector<std::string> labels = LabelsOf(name);
    FEDUMM_ASSIGN_OR_RETURN(const ClientShare share,
                            ShareOf(settings_, labels, place->partition_id, place->num_partitions));
    holdings.push_back({name, CountLabels(labels, share.train)});
  }
  return holdings;
}

absl::Status LabelledWorld::CheckClientTasks() const {
  const std::vector<std::string> entries =
      absl::StrSplit(TextOr(settings_, "data.client-tasks", ""), ',', absl::SkipEmpty());
  for (const std::string& entry : entries) {
    if (entry == "all" || std::find(tasks_.begin(), tasks_.end(), entry) != tasks_.end()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("'data.client-tasks' must name tasks of train.tasks (",
                     absl::StrJoin(tasks_, ", "), ") or all: ", entry));
  }
  return absl::OkStatus();
}

absl::StatusOr<MetricRecord> LabelledWorld::Evaluate(int64_t stride) {
  if (stride < 1) return absl::InvalidArgumentError(absl::StrCat("stride is ", stride));
  MetricRecord metrics;
  for (const std::string& name : tasks_) {
    FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Task> task,
                            NewTask(name, {}, {.stride = stride}));
    FEDUMM_ASSIGN_OR_RETURN(const MetricRecord measured, task->Evaluate());
    for (const auto& [key, value] : measured) metrics.Set(key, value);
  }
  return metrics;
}

}  // namespace fedumm::model
