#include "fedumm/model/client.h"

#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "fedumm/model/train.h"
#include "model/guarded.h"

namespace fedumm::model {
namespace {

// Looks a setting up in the message, then in the run.
class Settings {
 public:
  Settings(const ConfigRecord* message, const ConfigRecord& run) : message_(message), run_(run) {}

  bool Has(const std::string& key) const { return Find(key) != nullptr; }

  absl::StatusOr<double> Number(const std::string& key, double otherwise) const {
    const ConfigValue* value = Find(key);
    if (value == nullptr) return otherwise;
    if (const auto* number = std::get_if<double>(value)) {
      if (std::isfinite(*number)) return *number;
    } else if (const auto* integer = std::get_if<int64_t>(value)) {
      return static_cast<double>(*integer);
    } else if (const auto* natural = std::get_if<uint64_t>(value)) {
      return static_cast<double>(*natural);
    }
    return absl::InvalidArgumentError(absl::StrCat(key, " is not a finite number"));
  }

  // INVALID_ARGUMENT unless it is a whole number in [least, 10^9].
  absl::StatusOr<int64_t> Count(const std::string& key, int64_t otherwise, int64_t least) const {
    FEDUMM_ASSIGN_OR_RETURN(const double number, Number(key, static_cast<double>(otherwise)));
    if (number != std::floor(number) || number < static_cast<double>(least) || number > 1e9) {
      return absl::InvalidArgumentError(
          absl::StrCat(key, " must be a whole number from ", least, " on: ", number));
    }
    return static_cast<int64_t>(number);
  }

  absl::StatusOr<uint64_t> Seed() const {
    const ConfigValue* value = Find("seed");
    if (value == nullptr) return 0;
    if (const auto* integer = std::get_if<int64_t>(value)) return static_cast<uint64_t>(*integer);
    if (const auto* natural = std::get_if<uint64_t>(value)) return *natural;
    return absl::InvalidArgumentError("seed is not a whole number");
  }

  bool Flag(const std::string& key) const {
    const ConfigValue* value = Find(key);
    const bool* flag = value == nullptr ? nullptr : std::get_if<bool>(value);
    return flag != nullptr && *flag;
  }

  std::string Name(const std::string& key, const std::string& otherwise) const {
    const ConfigValue* value = Find(key);
    const auto* text = value == nullptr ? nullptr : std::get_if<std::string>(value);
    return text == nullptr ? otherwise : *text;
  }

 private:
  const ConfigValue* Find(const std::string& key) const {
    const ConfigValue* value = message_ == nullptr ? nullptr : message_->Find(key);
    if (value == nullptr) value = run_.Find(key);
    return value == nullptr ? run_.Find("train." + key) : value;
  }

  const ConfigRecord* message_;
  const ConfigRecord& run_;
};

absl::StatusOr<TrainOptions> TrainOptionsOf(const Settings& settings, int64_t round) {
  TrainOptions options;
  LearningRate& rate = options.learning_rate;
  FEDUMM_ASSIGN_OR_RETURN(options.steps, settings.Count("local-steps", 1, 0));
  FEDUMM_ASSIGN_OR_RETURN(options.accumulation_steps,
                          settings.Count("gradient-accumulation-steps", 1, 1));
  FEDUMM_ASSIGN_OR_RETURN(rate.value, settings.Number("learning-rate", rate.value));
  FEDUMM_ASSIGN_OR_RETURN(rate.final_value, settings.Number("final-learning-rate", 0));
  FEDUMM_ASSIGN_OR_RETURN(rate.warmup_steps, settings.Count("warmup-steps", 0, 0));
  FEDUMM_ASSIGN_OR_RETURN(options.weight_decay, settings.Number("weight-decay", 0));
  FEDUMM_ASSIGN_OR_RETURN(options.max_grad_norm, settings.Number("max-grad-norm", 0));
  options.first_step = (round - 1) * options.steps;
  const std::string schedule = settings.Name("schedule", "constant");
  if (schedule == "cosine") {
    if (!settings.Has("num-rounds")) {
      return absl::InvalidArgumentError("schedule cosine needs num-rounds");
    }
    FEDUMM_ASSIGN_OR_RETURN(const int64_t rounds, settings.Count("num-rounds", 0, 1));
    rate.cosine = true;
    rate.total_steps = rounds * options.steps;
  } else if (schedule != "constant") {
    return absl::InvalidArgumentError(
        absl::StrCat("schedule must be constant or cosine: ", schedule));
  }
  return options;
}

// One of a node's tasks in one round.
struct ActiveTask {
  Task* task;
  int64_t batch_size;
  double loss_weight;
  double loss_sum = 0;
};

// The message's record of that kind and name, or the only one of the kind.
template <typename Kind>
const std::pair<std::string, AnyRecord>* FindRecord(const RecordDict& content, const char* name) {
  const std::pair<std::string, AnyRecord>* found = nullptr;
  for (const auto& item : content) {
    if (!std::holds_alternative<Kind>(item.second)) continue;
    if (item.first == name) return &item;
    if (found == nullptr) found = &item;
  }
  return found;
}

// Handles messages one at a time. Thread-safe.
class LoraClient {
 public:
  LoraClient(LoraAdapter& adapter, TasksFor tasks, std::function<absl::Time()> clock)
      : adapter_(adapter), tasks_for_(std::move(tasks)), clock_(std::move(clock)) {}

  absl::StatusOr<RecordDict> OnTrain(const Message& message, const Context& context) {
    const MutexLock lock(mu_);
    return Guarded([&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return Train(message, context); });
  }
  absl::StatusOr<RecordDict> OnEvaluate(const Message& message, const Context& context) {
    const MutexLock lock(mu_);
    return Guarded([&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return Evaluate(message, context); });
  }

 private:
  struct Node {
    std::vector<std::unique_ptr<Task>> tasks;
    uint64_t run_id = 0;   // of `optimizer`
    AdamWState optimizer;  // between rounds, with keep-optimizer
  };

  absl::StatusOr<RecordDict> Train(const Message& message, const Context& context)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<RecordDict> Evaluate(const Message& message, const Context& context)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<Node*> NodeOf(int64_t partition, const Context& context)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Mutex mu_;  // guards the backbone with its adapter, too
  LoraAdapter& adapter_;
  const TasksFor tasks_for_;
  const std::function<absl::Time()> clock_;
  std::map<std::pair<int64_t, int64_t>, Node> nodes_
      ABSL_GUARDED_BY(mu_);  // by partition and number of partitions
};

int64_t PartitionOf(const Context& context) {
  return static_cast<int64_t>(NumberOr(context.node_config, "partition-id", 0));
}

absl::StatusOr<LoraClient::Node*> LoraClient::NodeOf(int64_t partition, const Context& context) {
  const auto partitions = static_cast<int64_t>(NumberOr(context.node_config, "num-partitions", 1));
  Node& node = nodes_[{partition, partitions}];
  if (node.tasks.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(node.tasks, tasks_for_(partition, partitions));
  }
  return &node;
}

absl::StatusOr<const std::pair<std::string, AnyRecord>*> AdapterIn(const Message& message) {
  const auto* arrays =
      message.content.has_value() ? FindRecord<ArrayRecord>(*message.content, "arrays") : nullptr;
  if (arrays == nullptr) return absl::InvalidArgumentError("the message carries no arrays");
  return arrays;
}

const ConfigRecord* ConfigIn(const Message& message) {
  const auto* config = FindRecord<ConfigRecord>(*message.content, "config");
  return config == nullptr ? nullptr : &std::get<ConfigRecord>(config->second);
}

// The tasks that have examples, seeded from `random`.
absl::StatusOr<std::vector<ActiveTask>> StartTasks(const std::vector<std::unique_ptr<Task>>& tasks,
                                                   const Settings& settings, Random random) {
  std::vector<ActiveTask> active;
  for (const std::unique_ptr<Task>& task : tasks) {
    const uint64_t seed = random.Next();
    if (task->num_examples() == 0) continue;
    FEDUMM_ASSIGN_OR_RETURN(const int64_t common, settings.Count("batch-size", 8, 1));
    FEDUMM_ASSIGN_OR_RETURN(const int64_t batch_size,
                            settings.Count(task->name() + "-batch-size", common, 1));
    FEDUMM_ASSIGN_OR_RETURN(const double loss_weight,
                            settings.Number(task->name() + "-loss-weight", 1));
    task->Seed(seed);
    active.push_back({task.get(), batch_size, loss_weight});
  }
  if (active.empty()) return absl::FailedPreconditionError("the node has no examples to train on");
  return active;
}

absl::StatusOr<at::Tensor> WeightedLoss(std::vector<ActiveTask>& tasks) {
  at::Tensor sum;
  for (ActiveTask& active : tasks) {
    FEDUMM_ASSIGN_OR_RETURN(const Batch batch, active.task->NextBatch(active.batch_size));
    FEDUMM_ASSIGN_OR_RETURN(const at::Tensor loss, active.task->Loss(batch));
    active.loss_sum += loss.item<double>();
    const at::Tensor weighted = active.loss_weight == 1 ? loss : loss * active.loss_weight;
    sum = sum.defined() ? sum + weighted : weighted;
  }
  return sum;
}

absl::StatusOr<RecordDict> LoraClient::Train(const Message& message, const Context& context) {
  const absl::Time start = clock_();
  FEDUMM_ASSIGN_OR_RETURN(const auto* named, AdapterIn(message));
  const auto& arrays = std::get<ArrayRecord>(named->second);
  const Settings settings(ConfigIn(message), context.run_config);
  const int64_t partition = PartitionOf(context);
  FEDUMM_ASSIGN_OR_RETURN(const int64_t round, settings.Count("server-round", 1, 1));
  FEDUMM_ASSIGN_OR_RETURN(const TrainOptions options, TrainOptionsOf(settings, round));
  FEDUMM_ASSIGN_OR_RETURN(const uint64_t seed, settings.Seed());
  FEDUMM_ASSIGN_OR_RETURN(Node * node, NodeOf(partition, context));
  Random random(seed, {static_cast<uint64_t>(partition), static_cast<uint64_t>(round)});
  const uint64_t dropout_seed = random.Next();
  FEDUMM_ASSIGN_OR_RETURN(std::vector<ActiveTask> tasks, StartTasks(node->tasks, settings, random));
  if (!settings.Flag("keep-optimizer") || node->run_id != context.run_id) node->optimizer = {};
  node->run_id = context.run_id;

  FEDUMM_RETURN_IF_ERROR(adapter_.FromArrays(arrays));
  adapter_.StartTraining(dropout_seed);
  const absl::StatusOr<TrainStats> stats = model::Train(
      adapter_.parameters(), [&](int64_t) { return WeightedLoss(tasks); }, options,
      &node->optimizer);
  adapter_.StopTraining();
  if (!stats.ok()) {
    node->optimizer = {};
    return stats.status();
  }
  if (!settings.Flag("keep-optimizer")) node->optimizer = {};

  MetricRecord metrics;
  int64_t num_examples = 0;
  for (const ActiveTask& active : tasks) num_examples += active.task->num_examples();
  metrics.Set("num-examples", num_examples);
  metrics.Set("train-loss", stats->mean_loss);
  const auto losses =
      static_cast<double>(std::max<int64_t>(1, options.steps * options.accumulation_steps));
  for (const ActiveTask& active : tasks) {
    metrics.Set(active.task->name() + "-loss", active.loss_sum / losses);
  }
  metrics.Set("grad-norm", stats->max_grad_norm);
  metrics.Set("seconds", absl::ToDoubleSeconds(clock_() - start));
  RecordDict reply;
  FEDUMM_ASSIGN_OR_RETURN(ArrayRecord trained, adapter_.ToArraysLike(arrays));
  reply.Set(named->first, std::move(trained));
  reply.Set("metrics", std::move(metrics));
  return reply;
}

absl::StatusOr<RecordDict> LoraClient::Evaluate(const Message& message, const Context& context) {
  const absl::Time start = clock_();
  FEDUMM_ASSIGN_OR_RETURN(const auto* named, AdapterIn(message));
  FEDUMM_ASSIGN_OR_RETURN(Node * node, NodeOf(PartitionOf(context), context));
  FEDUMM_RETURN_IF_ERROR(adapter_.FromArrays(std::get<ArrayRecord>(named->second)));
  const at::NoGradGuard no_grad;
  MetricRecord metrics;
  metrics.Set("num-examples", int64_t{0});
  int64_t num_examples = 0;
  for (const std::unique_ptr<Task>& task : node->tasks) {
    FEDUMM_ASSIGN_OR_RETURN(const MetricRecord figures, task->Evaluate());
    for (const auto& [key, value] : figures) metrics.Set(key, value);
    num_examples += static_cast<int64_t>(NumberOr(figures, task->name() + "-num-examples",
                                                  static_cast<double>(task->num_examples())));
  }
  metrics.Set("num-examples", num_examples);
  metrics.Set("seconds", absl::ToDoubleSeconds(clock_() - start));
  RecordDict reply;
  reply.Set("metrics", std::move(metrics));
  return reply;
}

}  // namespace

ClientApp NewLoraClient(LoraAdapter& adapter, TasksFor tasks, std::function<absl::Time()> clock) {
  const auto client = std::make_shared<LoraClient>(adapter, std::move(tasks), std::move(clock));
  ClientApp app;
  app.OnTrain([client](const Message& message, Context& context) {
    return client->OnTrain(message, context);
  });
  app.OnEvaluate([client](const Message& message, Context& context) {
    return client->OnEvaluate(message, context);
  });
  return app;
}

}  // namespace fedumm::model
