#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "fedumm/record.h"

namespace at {
class Tensor;
}

namespace fedumm::model {

// One batch of examples as named tensors in host memory: "input_ids", "targets". The names are the
// task's own.
using Batch = std::map<std::string, at::Tensor>;

// What a task's training takes where no setting says otherwise (see TaskSettings in client.h).
struct TaskDefaults {
  int64_t batch_size = 8;
  double loss_weight = 1;  // of this task's loss in the sum over a node's tasks
};

// What an adapter is trained and evaluated on: one client's examples of one kind, with the frozen
// backbone they run through. Not thread-safe, but NextBatch may run on another thread at the same
// time as Loss.
class Task {
 public:
  virtual ~Task() = default;

  virtual std::string name() const = 0;  // "vqa", "draw": prefix of its metrics and settings
  virtual int64_t num_examples() const = 0;
  virtual TaskDefaults defaults() const { return {}; }
  // Whether the loss depends on the module of that path (in the checkpoint's own layout, as
  // NamedLinear has it): its adapter is then averaged with the task's number of examples.
  virtual bool Trains(std::string_view /*module_path*/) const { return true; }
  // Whether Loss can run while the model holds meta tensors, shapes without values, and keeps
  // nothing of it for later calls. Only then is the memory of a training step worked out
  // beforehand.
  virtual bool TakesMetaTensors() const { return false; }
  // Starts a pass of training whose batches depend on nothing but `seed` and the task's own
  // examples.
  virtual void Seed(uint64_t seed) = 0;
  // The next `batch_size` examples. Work of the host only: it runs neither the backbone nor the
  // adapters. All that is random about a batch is drawn here.
  virtual absl::StatusOr<Batch> NextBatch(int64_t batch_size) = 0;
  // The mean loss (scalar, fp32, with gradient to the adapters) of a batch of NextBatch. Depends on
  // the batch and the adapters only, so that the same call again gives the same loss.
  virtual absl::StatusOr<at::Tensor> Loss(const Batch& batch) = 0;
  // Held-out figures under the adapters as they are now, e.g. {"vqa-accuracy": 0.93,
  // "vqa-num-examples": 3660}. "<task>-num-examples" alone where nothing is held out.
  virtual absl::StatusOr<MetricRecord> Evaluate() = 0;
};

}  // namespace fedumm::model
