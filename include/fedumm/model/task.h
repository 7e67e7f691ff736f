#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "fedumm/record.h"

namespace at {
class Tensor;
}

namespace fedumm::model {

// What an adapter is trained and judged on: one client's examples of one kind, with the frozen
// backbone they run through. Not thread-safe.
class Task {
 public:
  virtual ~Task() = default;

  virtual std::string name() const = 0;  // "vqa", "draw": prefix of its metrics
  virtual int64_t num_examples() const = 0;
  // Starts a pass of training whose batches depend on nothing but `seed` and the task's own
  // examples.
  virtual void Seed(uint64_t seed) = 0;
  // The mean loss (scalar, fp32, with gradient to the adapters) of the next `batch_size` examples.
  virtual absl::StatusOr<at::Tensor> Loss(int64_t batch_size) = 0;
  // Held-out figures under the adapters as they are now, e.g. {"vqa-accuracy": 0.93,
  // "vqa-num-examples": 3660}.
  virtual absl::StatusOr<MetricRecord> Evaluate() = 0;
};

}  // namespace fedumm::model
