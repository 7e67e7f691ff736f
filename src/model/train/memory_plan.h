// What memory a client's training step takes, known before the first one runs.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/lora.h"
#include "model/train/client_settings.h"

namespace fedumm::model {

// In bytes.
struct MemoryPlan {
  int64_t weights = 0;                   // of the frozen backbone
  int64_t adapters = 0;                  // values and gradients
  int64_t optimizer = 0;                 // AdamW's moments
  int64_t activations = 0;               // at the peak of a step, its batches among them
  int64_t checkpointed_activations = 0;  // the same with gradient checkpointing

  int64_t Total(bool checkpointing) const {
    return weights + adapters + optimizer +
           (checkpointing ? checkpointed_activations : activations);
  }
  // "weights 6.2 GB, adapters 59 MB, optimizer 59 MB, activations 3.1 GB (0.9 GB with
  // train.gradient-checkpointing)"
  std::string ToString() const;
};

// Draws a batch of each task and runs forward and backward of their weighted loss on meta tensors:
// the same allocations without memory or arithmetic. `model` holds meta tensors meanwhile, so
// nobody else may use it; the tasks' batches go on, so Seed must follow. `settings.tasks` must not
// be empty. UNIMPLEMENTED if a task needs values.
absl::StatusOr<MemoryPlan> PlanMemory(UnifiedModel& model, LoraAdapter& adapter,
                                      const ClientSettings& settings);

// RESOURCE_EXHAUSTED, with all numbers and what helps, if the plan needs more than `available`
// bytes.
absl::Status CheckFits(const MemoryPlan& plan, bool checkpointing, int64_t available);

std::string SizeText(int64_t bytes);  // "6.20 GB", "59.0 MB"

// What this process can have in all: its share of the machine's free memory, under the limit of its
// cgroup, and what it holds already. Very large where the system does not say.
int64_t AvailableMemory();

}  // namespace fedumm::model
