#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/model/task.h"
#include "fedumm/record.h"
#include "model/train/client_settings.h"
#include "model/train/prefetch.h"

namespace fedumm::model {

inline constexpr size_t kBatchesAhead = 2;  // ready while the backbone runs

// The next batch of each task.
absl::StatusOr<std::vector<Batch>> NextBatches(
    const std::vector<ClientSettings::ActiveTask>& tasks);

// The weighted sum of the tasks' losses of those batches. Each loss is added to its sum in `sums`
// (fp64, on the device), which may be null.
absl::StatusOr<at::Tensor> WeightedLoss(const std::vector<ClientSettings::ActiveTask>& tasks,
                                        const std::vector<Batch>& batches,
                                        std::vector<at::Tensor>* sums);

// The losses of a node's tasks in one round of training. The batches are made on a thread, in the
// order in which they are used.
class TaskLosses {
 public:
  // Takes the batches from the seeds that the tasks have. Next may be called `num_calls` times.
  TaskLosses(std::vector<ClientSettings::ActiveTask> tasks, int64_t num_calls);

  // The weighted sum of the tasks' losses, each of its next batch.
  absl::StatusOr<at::Tensor> Next();
  // "<task>-loss", the mean of each task's losses. Waits for the device.
  void AddMetrics(MetricRecord& metrics) const;

 private:
  const std::vector<ClientSettings::ActiveTask> tasks_;
  std::vector<at::Tensor> sums_;  // of the losses, on the device
  const int64_t num_calls_;
  Prefetcher<std::vector<Batch>> batches_;  // last: its thread uses the tasks
};

}  // namespace fedumm::model
