#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "fedumm/client_app.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/lora.h"
#include "fedumm/model/task.h"
#include "fedumm/settings.h"

namespace fedumm::model {

// The tasks of one client. Called once for each partition.
using TasksFor = std::function<absl::StatusOr<std::vector<std::unique_ptr<Task>>>(
    int64_t partition_id, int64_t num_partitions)>;

// The settings of a client's training, one table for all readers: "seed", and
// "train.learning-rate" and its like. Those of the tasks come from TaskSettings.
std::vector<Setting> TrainSettings();
// "train.<task>-batch-size" and "train.<task>-loss-weight". A batch size of 0, the default, is
// train.batch-size, and where that is 0, too, `defaults`.
std::vector<Setting> TaskSettings(const std::string& task, const TaskDefaults& defaults);

struct LoraClientOptions {
  // The backbone that carries the adapter. With it the memory of a step is worked out before the
  // first step of a run, if all tasks allow it (Task::TakesMetaTensors); `tell` gets it as a line,
  // and a step that does not fit is RESOURCE_EXHAUSTED. It outlives the app.
  UnifiedModel* model = nullptr;
  std::function<void(const std::string& line)> tell;  // null: the lines are logged
  // Where the partitions' optimizers are kept between rounds (train.keep-optimizer), so that a run
  // that was killed goes on with the same bits, and memory does not grow with the partitions. The
  // files belong to one run: give each run a folder of its own. Empty: they are kept in memory.
  std::string state_folder;
  std::function<absl::Time()> clock = absl::Now;
};

// The client of federated LoRA fine-tuning: puts the message's adapter on the backbone, trains it
// (or evaluates under it) and replies {"arrays", "metrics"}. All nodes of the process share the one
// backbone of `adapter`, which outlives the app: messages are handled one at a time, and what a
// node replies depends on the message, its partition-id and the run's seed alone (and, with
// train.keep-optimizer, on its earlier rounds).
//
// Settings are those of TrainSettings and TaskSettings. The message's ConfigRecord has them without
// "train." ("learning-rate"; Flower's "lr" is the same), the run's configuration with or without
// it. A key of the message overrides the run's, also batch-size the run's <task>-batch-size. What
// the run's configuration lacks takes the table's default, which is logged once a run. A key of the
// message, or under "train." in the run's configuration, that is not known is named in a warning
// once a run. In the message are obeyed also:
//
//   server-round   from 1; moves the learning rate's schedule and the seed
//   num-rounds     of the cosine schedule; else the run's federation.rounds or num-server-rounds.
//                  Without any, the default schedule becomes constant, with a warning, and a
//                  cosine that was asked for is INVALID_ARGUMENT
//   proximal-mu    of Flower's FedProx: mu/2 |w - w0|^2 is added to the loss, where w0 is the
//                  adapter of the message. train-loss does not contain it
//   clipping_norm  of Flower's client-side differential privacy: see MessageClippingMod
//
// and in the message of an evaluation:
//
//   personalise-steps          steps of training on the node's own examples, after which the node
//   is
//                              judged again: figures with the suffix "-personalised"
//   personalise-learning-rate  of those steps, constant
//
// A step's loss is the weighted sum of the tasks' losses; the next batch is prepared while the
// backbone runs. Metrics of training: num-examples, train-loss (of that sum), <task>-loss
// (unweighted), grad-norm, optimizer-steps (that the optimizer had made before, 0: fresh), seconds;
// of evaluation: num-examples, seconds and what the tasks say. A
// tensor counts in the average with the examples of the tasks that train it (Task::Trains): where
// that is not all of num-examples, the reply says so by kTensorSharesRecord (aggregator.h). An
// adapter that does not fit, a loss that is not finite or a node without examples is an error
// reply.
ClientApp NewLoraClient(LoraAdapter& adapter, TasksFor tasks, LoraClientOptions options = {});

}  // namespace fedumm::model
