#include "model/train/memory_plan.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "model/guarded.h"
#include "model/train/counting_allocator.h"
#include "model/train/meta_kernels.h"
#include "model/train/prefetch.h"
#include "model/train/task_losses.h"

namespace fedumm::model {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

int64_t BytesOf(const std::vector<Batch>& batches) {
  int64_t bytes = 0;
  for (const Batch& batch : batches) {
    for (const auto& [name, tensor] : batch) bytes += static_cast<int64_t>(tensor.nbytes());
  }
  return bytes;
}

// The model's shapes in its place, for as long as it lives.
class ShapesOnly {
 public:
  static absl::StatusOr<std::unique_ptr<ShapesOnly>> Replace(UnifiedModel& model) {
    StateDict shapes;
    for (const auto& [name, tensor] : model.Parameters()) {
      shapes[name] = at::empty_like(*tensor, tensor->options().device(at::kMeta));
    }
    FEDUMM_ASSIGN_OR_RETURN(std::unique_ptr<UnifiedModel> other,
                            UnifiedModel::Create(model.config(), std::move(shapes)));
    return std::unique_ptr<ShapesOnly>(new ShapesOnly(model, std::move(other)));
  }
  ~ShapesOnly() { model_.Swap(*other_); }
  ShapesOnly(const ShapesOnly&) = delete;
  ShapesOnly& operator=(const ShapesOnly&) = delete;

 private:
  ShapesOnly(UnifiedModel& model, std::unique_ptr<UnifiedModel> other)
      : model_(model), other_(std::move(other)) {
    model_.Swap(*other_);
  }

  UnifiedModel& model_;
  const std::unique_ptr<UnifiedModel> other_;
};

// The peak of one step's allocations.
absl::StatusOr<int64_t> PeakOfStep(LoraAdapter& adapter, const std::vector<Batch>& batches,
                                   const std::vector<ClientSettings::ActiveTask>& tasks,
                                   bool checkpointing) {
  const GradientCheckpointing with(checkpointing);
  adapter.StartTraining(0);
  const CountedAllocations allocations(c10::kMeta);
  FEDUMM_ASSIGN_OR_RETURN(const at::Tensor loss, WeightedLoss(tasks, batches, nullptr));
  loss.backward();
  return allocations.count().peak();
}

// A number at the beginning of a file's line `field: 123 kB`, or of the file itself; -1: none.
int64_t NumberIn(const std::string& path, const std::string& field) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(field)) continue;
    const size_t begin = line.find_first_of("0123456789", field.size());
    int64_t value = -1;
    if (begin != line.npos) std::from_chars(line.data() + begin, line.data() + line.size(), value);
    return value;
  }
  return -1;
}

}  // namespace

std::string SizeText(int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (value >= 1e9) return absl::StrFormat("%.2f GB", value / 1e9);
  return absl::StrFormat("%.1f MB", value / 1e6);
}

std::string MemoryPlan::ToString() const {
  return absl::StrCat("weights ", SizeText(weights), ", adapters ", SizeText(adapters),
                      ", optimizer ", SizeText(optimizer), ", activations ", SizeText(activations),
                      " (", SizeText(checkpointed_activations),
                      " with train.gradient-checkpointing)");
}

absl::StatusOr<MemoryPlan> PlanMemory(UnifiedModel& model, LoraAdapter& adapter,
                                      const ClientSettings& settings) {
  for (const ClientSettings::ActiveTask& active : settings.tasks) {
    if (active.task->TakesMetaTensors()) continue;
    return absl::UnimplementedError(
        absl::StrCat("task ", active.task->name(), " needs the model's values"));
  }
  MemoryPlan plan;
  for (const auto& [name, tensor] : model.Parameters()) {
    plan.weights += static_cast<int64_t>(tensor->nbytes());
  }
  const int64_t values = adapter.parameters().size() * static_cast<int64_t>(sizeof(float));
  plan.adapters = 2 * values;
  plan.optimizer = 2 * values;
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<Batch> batches, NextBatches(settings.tasks));
  // On the host one step's batches are used while those ahead are ready and one is being made.
  const int64_t waiting = BytesOf(batches) * static_cast<int64_t>(kBatchesAhead + 1);
  return Guarded([&]() -> absl::StatusOr<MemoryPlan> {
    static Mutex& one_at_a_time = *new Mutex;  // allocator and kernels are those of all threads
    const MutexLock lock(one_at_a_time);
    const MetaKernels kernels;
    FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<ShapesOnly> shapes, ShapesOnly::Replace(model));
    LoraConfig config = adapter.config();
    config.init_lora_weights = LoraInit::kDefault;  // of values that nobody sees
    FEDUMM_ASSIGN_OR_RETURN(
        const std::unique_ptr<LoraAdapter> copy,
        LoraAdapter::Attach(model.Linears(), std::move(config), 0, adapter.layout()));
    const auto step = [&](bool checkpointing) {
      return PeakOfStep(*copy, batches, settings.tasks, checkpointing);
    };
    FEDUMM_ASSIGN_OR_RETURN(plan.activations, step(false));
    FEDUMM_ASSIGN_OR_RETURN(plan.checkpointed_activations, step(true));
    plan.activations += waiting;
    plan.checkpointed_activations += waiting;
    return plan;
  });
}

absl::Status CheckFits(const MemoryPlan& plan, bool checkpointing, int64_t available) {
  const int64_t needed = plan.Total(checkpointing);
  if (needed <= available) return absl::OkStatus();
  std::string text = absl::StrCat("training needs ", SizeText(needed), " of memory, but ",
                                  SizeText(available), " are there: ", plan.ToString());
  if (!checkpointing && plan.Total(true) <= available) {
    return absl::ResourceExhaustedError(
        absl::StrCat(text, ". Set train.gradient-checkpointing to true"));
  }
  return absl::ResourceExhaustedError(
      absl::StrCat(text,
                   ". Set train.gradient-checkpointing to true, make train.batch-size smaller with "
                   "train.gradient-accumulation-steps, or load the weights in a narrower dtype"));
}

int64_t AvailableMemory() {
  int64_t available = kUnlimited;
  const int64_t free = NumberIn("/proc/meminfo", "MemAvailable:");
  if (free >= 0) available = free * 1024;
  const int64_t limit = NumberIn("/sys/fs/cgroup/memory.max", "");
  const int64_t used = NumberIn("/sys/fs/cgroup/memory.current", "");
  const int64_t cached = NumberIn("/sys/fs/cgroup/memory.stat", "file ");
  if (limit >= 0 && used >= 0) {  // "max" is no number
    available = std::min(available, limit - used + std::max<int64_t>(0, cached));
  }
  const int64_t held = NumberIn("/proc/self/status", "RssAnon:");
  if (available == kUnlimited || held < 0) return available;
  return available + held * 1024;
}

}  // namespace fedumm::model
