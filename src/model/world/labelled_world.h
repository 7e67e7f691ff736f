// What worlds have in common whose examples are dealt to clients by their labels.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/world.h"

namespace fedumm::model {

// The names in "train.tasks", in their order.
std::vector<std::string> TasksOf(const ConfigRecord& settings);

// What a task is judged on.
struct Judging {
  int64_t stride = 1;  // every so many of the world's held-out examples
  // Or a client's own: training examples (indices into the labels) that it keeps back.
  std::optional<std::vector<int64_t>> own = std::nullopt;

  // The indices of what is judged, of a set of `count`: all of own, or every stride'th.
  std::vector<int64_t> Indices(int64_t count) const;
};

// A world on one UnifiedModel whose tasks are those of "train.tasks". Thread rule as of World.
class LabelledWorld : public World {
 public:
  std::vector<NamedLinear> Linears() final;
  int64_t ModelBytes() const final;
  UnifiedModel* Model() final;
  absl::StatusOr<std::vector<std::unique_ptr<Task>>> ClientTasks(int64_t partition_id,
                                                                 int64_t num_partitions) final;
  absl::StatusOr<std::vector<Holding>> Describe(int64_t partition_id, int64_t num_partitions) final;
  // INVALID_ARGUMENT unless `stride` is positive.
  absl::StatusOr<MetricRecord> Evaluate(int64_t stride) final;

 protected:
  explicit LabelledWorld(const ConfigRecord& settings)
      : settings_(settings), tasks_(TasksOf(settings)) {}

  virtual UnifiedModel& model() const = 0;
  // What the partitioner deals by, one per training example of the task.
  virtual std::vector<std::string> LabelsOf(const std::string& task) const = 0;
  // The task on the training examples `share` (indices into its labels).
  virtual absl::StatusOr<std::unique_ptr<Task>> NewTask(const std::string& task,
                                                        std::vector<int64_t> share,
                                                        Judging judging) const = 0;

  const ConfigRecord settings_;
  const std::vector<std::string> tasks_;

 private:
  absl::Status CheckClientTasks() const;
};

}  // namespace fedumm::model
