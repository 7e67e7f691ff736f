#include "model/train/task_losses.h"

#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <utility>

#include "base/status_macros.h"

namespace fedumm::model {

absl::StatusOr<std::vector<Batch>> NextBatches(
    const std::vector<ClientSettings::ActiveTask>& tasks) {
  const at::NoGradGuard no_grad;
  std::vector<Batch> batches;
  for (const ClientSettings::ActiveTask& active : tasks) {
    FEDUMM_ASSIGN_OR_RETURN(Batch batch, active.task->NextBatch(active.batch_size));
    batches.push_back(std::move(batch));
  }
  return batches;
}

absl::StatusOr<at::Tensor> WeightedLoss(const std::vector<ClientSettings::ActiveTask>& tasks,
                                        const std::vector<Batch>& batches,
                                        std::vector<at::Tensor>* sums) {
  at::Tensor sum;
  for (size_t i = 0; i < tasks.size(); ++i) {
    FEDUMM_ASSIGN_OR_RETURN(const at::Tensor loss, tasks[i].task->Loss(batches[i]));
    if (sums != nullptr) {
      const at::Tensor value = loss.detach().to(at::kDouble);
      (*sums)[i] = (*sums)[i].defined() ? (*sums)[i] + value : value;
    }
    const double weight = tasks[i].loss_weight;
    const at::Tensor weighted = weight == 1 ? loss : loss * weight;
    sum = sum.defined() ? sum + weighted : weighted;
  }
  return sum;
}

TaskLosses::TaskLosses(std::vector<ClientSettings::ActiveTask> tasks, int64_t num_calls)
    : tasks_(std::move(tasks)),
      sums_(tasks_.size()),
      num_calls_(num_calls),
      batches_([this] { return NextBatches(tasks_); }, num_calls, kBatchesAhead) {}

absl::StatusOr<at::Tensor> TaskLosses::Next() {
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<Batch> batches, batches_.Next());
  return WeightedLoss(tasks_, batches, &sums_);
}

void TaskLosses::AddMetrics(MetricRecord& metrics) const {
  for (size_t i = 0; i < tasks_.size(); ++i) {
    const double sum = sums_[i].defined() ? sums_[i].item<double>() : 0;
    metrics.Set(tasks_[i].task->name() + "-loss",
                sum / static_cast<double>(std::max<int64_t>(1, num_calls_)));
  }
}

}  // namespace fedumm::model
