#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "fedumm/client_app.h"
#include "fedumm/model/lora.h"
#include "fedumm/model/task.h"

namespace fedumm::model {

// What one client trains on and is judged by. Asked once for each partition.
using TasksFor = std::function<absl::StatusOr<std::vector<std::unique_ptr<Task>>>(
    int64_t partition_id, int64_t num_partitions)>;

// The client of federated LoRA fine-tuning: puts the message's adapter on the backbone, trains it
// (or evaluates under it) and replies {"arrays", "metrics"}. All nodes of the process share the one
// backbone of `adapter`, which outlives the app: messages are handled one at a time, and what a
// node replies depends on the message, its partition-id and the run's seed alone (and, with
// keep-optimizer, on its earlier rounds).
//
// Settings come from the message's ConfigRecord, else from the run's configuration under the same
// key, or under "train." and the key:
//
//   local-steps, <task>-batch-size (batch-size), <task>-loss-weight, gradient-accumulation-steps
//   learning-rate, schedule ("constant" or "cosine" over num-rounds), warmup-steps,
//   final-learning-rate, weight-decay, max-grad-norm, keep-optimizer, seed
//
// A step's loss is the weighted sum of the tasks' losses. Metrics of training: num-examples,
// train-loss (of that sum), <task>-loss (unweighted), grad-norm, seconds; of evaluation:
// num-examples, seconds and what the tasks say. An adapter that does not fit, a loss that is not
// finite or a node without examples is an error reply.
ClientApp NewLoraClient(LoraAdapter& adapter, TasksFor tasks,
                        std::function<absl::Time()> clock = absl::Now);

}  // namespace fedumm::model
