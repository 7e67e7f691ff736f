#include "fedumm/model/client.h"

#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "fedumm/aggregator.h"
#include "fedumm/mod.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/train.h"
#include "model/guarded.h"
#include "model/train/client_settings.h"
#include "model/train/memory_plan.h"
#include "model/train/optimizer_files.h"
#include "model/train/task_losses.h"

namespace fedumm::model {
namespace {

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

constexpr char kPersonaliseSteps[] = "personalise-steps";
constexpr char kPersonaliseLearningRate[] = "personalise-learning-rate";
constexpr double kDefaultPersonaliseLearningRate = 1e-3;
constexpr double kMaxPersonaliseSteps = 1e6;

// Handles messages one at a time. Thread-safe.
class LoraClient {
 public:
  LoraClient(LoraAdapter& adapter, TasksFor tasks, LoraClientOptions options)
      : adapter_(adapter), tasks_for_(std::move(tasks)), options_(std::move(options)) {}

  absl::StatusOr<RecordDict> OnTrain(const Message& message, const Context& context) {
    return Guarded([&] {
      const MutexLock lock(mu_);
      return Train(message, context);
    });
  }
  absl::StatusOr<RecordDict> OnEvaluate(const Message& message, const Context& context) {
    return Guarded([&] {
      const MutexLock lock(mu_);
      return Evaluate(message, context);
    });
  }

 private:
  struct Node {
    std::vector<std::unique_ptr<Task>> tasks;
    uint64_t run_id = 0;   // of `optimizer`
    AdamWState optimizer;  // between rounds, with keep-optimizer; fresh if `files` keep it
    std::optional<OptimizerFiles> files;
  };

  absl::StatusOr<RecordDict> Train(const Message& message, const Context& context)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<RecordDict> Evaluate(const Message& message, const Context& context)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Figures of the tasks under the adapter as it is, "num-examples" among them.
  absl::StatusOr<MetricRecord> FiguresOf(const Node& node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Personalise(const Message& message, const Context& context, Node& node,
                           int64_t steps) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<Node*> NodeOf(int64_t partition, const Context& context)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<RunSettings*> RunOf(const Context& context) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Makes and logs the memory plan of the process's first step in a run; an error if it does not
  // fit.
  absl::Status PlanOnce(uint64_t run_id, const ClientSettings& settings)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The state with which the node goes on in this round.
  absl::Status PrepareOptimizer(const ClientSettings& settings, const Context& context, Node& node)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  static constexpr size_t kMaxRuns = 16;  // one that is dropped is parsed, and logs, again

  Mutex mu_;  // guards the backbone with its adapter, too
  LoraAdapter& adapter_;
  const TasksFor tasks_for_;
  const LoraClientOptions options_;
  std::set<uint64_t> planned_ ABSL_GUARDED_BY(mu_);  // run ids
  std::map<std::pair<int64_t, int64_t>, Node> nodes_
      ABSL_GUARDED_BY(mu_);  // by partition and number of partitions
  std::map<uint64_t, RunSettings> runs_ ABSL_GUARDED_BY(mu_);  // by run id
};

int64_t PartitionOf(const Context& context) {
  return static_cast<int64_t>(NumberOr(context.node_config, "partition-id", 0));
}

absl::StatusOr<LoraClient::Node*> LoraClient::NodeOf(int64_t partition, const Context& context) {
  const auto partitions = static_cast<int64_t>(NumberOr(context.node_config, "num-partitions", 1));
  Node& node = nodes_[{partition, partitions}];
  if (node.tasks.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(node.tasks, tasks_for_(partition, partitions));
    if (!options_.state_folder.empty()) {
      node.files.emplace(options_.state_folder, partition, partitions);
    }
  }
  return &node;
}

absl::StatusOr<RunSettings*> LoraClient::RunOf(const Context& context) {
  const auto it = runs_.find(context.run_id);
  if (it != runs_.end() && it->second.run_config() == context.run_config) return &it->second;
  FEDUMM_ASSIGN_OR_RETURN(RunSettings run, RunSettings::Create(context.run_id, context.run_config));
  if (it == runs_.end() && runs_.size() >= kMaxRuns) runs_.erase(runs_.begin());
  return &runs_.insert_or_assign(context.run_id, std::move(run)).first->second;
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

// For each of `arrays` the part of the node's examples that trained it.
std::vector<double> SharesOf(const LoraAdapter& adapter, const ArrayRecord& arrays,
                             const std::vector<ClientSettings::ActiveTask>& tasks,
                             int64_t num_examples) {
  std::vector<double> shares;
  for (const auto& [key, array] : arrays) {
    const std::string* path = adapter.ModulePathOf(key);
    int64_t trained_on = 0;
    for (const ClientSettings::ActiveTask& active : tasks) {
      if (path != nullptr && active.loss_weight != 0 && active.task->Trains(*path)) {
        trained_on += active.task->num_examples();
      }
    }
    shares.push_back(static_cast<double>(trained_on) / static_cast<double>(num_examples));
  }
  return shares;
}

absl::Status LoraClient::PlanOnce(uint64_t run_id, const ClientSettings& settings) {
  if (options_.model == nullptr || planned_.contains(run_id)) return absl::OkStatus();
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(*options_.model, adapter_, settings);
  if (!plan.ok()) {
    planned_.insert(run_id);
    Log()->info("run {}: no plan of the memory of a step: {}", run_id,
                std::string(plan.status().message()));
    return absl::OkStatus();
  }
  const int64_t available = AvailableMemory();
  FEDUMM_RETURN_IF_ERROR(CheckFits(*plan, settings.gradient_checkpointing, available));
  planned_.insert(run_id);
  const std::string line = absl::StrCat("memory of a training step: ", plan->ToString(), "; ",
                                        SizeText(plan->Total(settings.gradient_checkpointing)),
                                        " in all of ", SizeText(available));
  if (options_.tell != nullptr) {
    options_.tell(line);
  } else {
    Log()->info("run {}: {}", run_id, line);
  }
  return absl::OkStatus();
}

absl::Status LoraClient::PrepareOptimizer(const ClientSettings& settings, const Context& context,
                                          Node& node) {
  const bool same_run = node.run_id == context.run_id;
  node.run_id = context.run_id;
  if (settings.keep_optimizer && same_run && !node.files.has_value()) return absl::OkStatus();
  node.optimizer = {};
  if (!settings.keep_optimizer || !node.files.has_value()) return absl::OkStatus();
  FEDUMM_ASSIGN_OR_RETURN(node.optimizer, node.files->LoadBefore(settings.round));
  if (!same_run && node.optimizer.step > 0) {
    Log()->info("partition {}: the optimizer goes on after {} steps", PartitionOf(context),
                node.optimizer.step);
  }
  return absl::OkStatus();
}

absl::StatusOr<RecordDict> LoraClient::Train(const Message& message, const Context& context) {
  const absl::Time start = options_.clock();
  FEDUMM_ASSIGN_OR_RETURN(const auto* named, AdapterIn(message));
  const auto& arrays = std::get<ArrayRecord>(named->second);
  const int64_t partition = PartitionOf(context);
  FEDUMM_ASSIGN_OR_RETURN(RunSettings * run, RunOf(context));
  FEDUMM_ASSIGN_OR_RETURN(Node * node, NodeOf(partition, context));
  FEDUMM_ASSIGN_OR_RETURN(ClientSettings settings, run->Parse(ConfigIn(message), node->tasks));
  if (settings.tasks.empty()) {
    return absl::FailedPreconditionError("the node has no examples to train on");
  }
  Random random(settings.seed,
                {static_cast<uint64_t>(partition), static_cast<uint64_t>(settings.round)});
  FEDUMM_RETURN_IF_ERROR(PlanOnce(context.run_id, settings));
  const uint64_t dropout_seed = random.Next();
  for (const std::unique_ptr<Task>& task : node->tasks) task->Seed(random.Next());
  FEDUMM_RETURN_IF_ERROR(PrepareOptimizer(settings, context, *node));
  const int64_t optimizer_steps = node->optimizer.step;

  FEDUMM_RETURN_IF_ERROR(adapter_.FromArrays(arrays));
  FlatParameters& parameters = adapter_.parameters();
  if (settings.proximal_mu > 0) {
    settings.train.on_gradients = ProximalTerm(settings.proximal_mu, parameters);
  }
  TaskLosses losses(settings.tasks, settings.train.steps * settings.train.accumulation_steps);
  const GradientCheckpointing checkpointing(settings.gradient_checkpointing);
  adapter_.StartTraining(dropout_seed);
  const absl::StatusOr<TrainStats> stats = model::Train(
      parameters, [&](int64_t) { return losses.Next(); }, settings.train, &node->optimizer);
  adapter_.StopTraining();
  if (!stats.ok()) {
    node->optimizer = {};
    if (node->files.has_value()) node->files->Discard();
    return stats.status();
  }
  if (settings.keep_optimizer && node->files.has_value()) {
    FEDUMM_RETURN_IF_ERROR(node->files->Save(settings.round, node->optimizer));
  }
  if (!settings.keep_optimizer || node->files.has_value()) node->optimizer = {};

  MetricRecord metrics;
  int64_t num_examples = 0;
  for (const auto& active : settings.tasks) num_examples += active.task->num_examples();
  metrics.Set("num-examples", num_examples);
  metrics.Set("train-loss", stats->mean_loss);
  losses.AddMetrics(metrics);
  metrics.Set("grad-norm", stats->max_grad_norm);
  metrics.Set("optimizer-steps", optimizer_steps);
  metrics.Set("seconds", absl::ToDoubleSeconds(options_.clock() - start));
  RecordDict reply;
  FEDUMM_ASSIGN_OR_RETURN(ArrayRecord trained, adapter_.ToArraysLike(arrays));
  std::vector<double> shares = SharesOf(adapter_, trained, settings.tasks, num_examples);
  reply.Set(named->first, std::move(trained));
  reply.Set("metrics", std::move(metrics));
  if (std::any_of(shares.begin(), shares.end(), [](double share) { return share != 1; })) {
    reply.Set(kTensorSharesRecord, ConfigRecord{{kTensorSharesKey, std::move(shares)}});
  }
  return reply;
}

absl::StatusOr<MetricRecord> LoraClient::FiguresOf(const Node& node) {
  const at::NoGradGuard no_grad;
  MetricRecord metrics;
  metrics.Set("num-examples", int64_t{0});
  int64_t num_examples = 0;
  for (const std::unique_ptr<Task>& task : node.tasks) {
    FEDUMM_ASSIGN_OR_RETURN(const MetricRecord figures, task->Evaluate());
    for (const auto& [key, value] : figures) metrics.Set(key, value);
    num_examples += static_cast<int64_t>(NumberOr(figures, task->name() + "-num-examples",
                                                  static_cast<double>(task->num_examples())));
  }
  metrics.Set("num-examples", num_examples);
  return metrics;
}

// Trains the adapter as it is on the node's own examples, with an optimizer of its own.
absl::Status LoraClient::Personalise(const Message& message, const Context& context, Node& node,
                                     int64_t steps) {
  const ConfigRecord* config = ConfigIn(message);
  FEDUMM_ASSIGN_OR_RETURN(RunSettings * run, RunOf(context));
  FEDUMM_ASSIGN_OR_RETURN(ClientSettings settings, run->Parse(nullptr, node.tasks));
  if (settings.tasks.empty()) return absl::OkStatus();
  TrainOptions options = settings.train;
  options.steps = steps;
  options.first_step = 0;
  options.learning_rate = {
      .value = NumberOr(*config, kPersonaliseLearningRate, kDefaultPersonaliseLearningRate)};
  Random random(settings.seed, {static_cast<uint64_t>(PartitionOf(context)),
                                static_cast<uint64_t>(NumberOr(*config, "server-round", 0)), 1});
  const uint64_t dropout_seed = random.Next();
  for (const std::unique_ptr<Task>& task : node.tasks) task->Seed(random.Next());
  TaskLosses losses(settings.tasks, options.steps * options.accumulation_steps);
  const GradientCheckpointing checkpointing(settings.gradient_checkpointing);
  adapter_.StartTraining(dropout_seed);
  const absl::StatusOr<TrainStats> stats = model::Train(
      adapter_.parameters(), [&](int64_t) { return losses.Next(); }, options);
  adapter_.StopTraining();
  return stats.status();
}

absl::StatusOr<RecordDict> LoraClient::Evaluate(const Message& message, const Context& context) {
  const absl::Time start = options_.clock();
  FEDUMM_ASSIGN_OR_RETURN(const auto* named, AdapterIn(message));
  FEDUMM_ASSIGN_OR_RETURN(Node * node, NodeOf(PartitionOf(context), context));
  FEDUMM_RETURN_IF_ERROR(adapter_.FromArrays(std::get<ArrayRecord>(named->second)));
  FEDUMM_ASSIGN_OR_RETURN(MetricRecord metrics, FiguresOf(*node));
  const ConfigRecord* config = ConfigIn(message);
  const double steps = config == nullptr ? 0 : NumberOr(*config, kPersonaliseSteps, 0);
  if (steps > 0) {
    if (steps > kMaxPersonaliseSteps) {
      return absl::InvalidArgumentError(
          absl::StrCat(kPersonaliseSteps, " must be at most ", kMaxPersonaliseSteps, ": ", steps));
    }
    FEDUMM_RETURN_IF_ERROR(Personalise(message, context, *node, static_cast<int64_t>(steps)));
    FEDUMM_ASSIGN_OR_RETURN(const MetricRecord figures, FiguresOf(*node));
    for (const auto& [key, value] : figures) {
      if (!absl::EndsWith(key, "num-examples")) metrics.Set(key + "-personalised", value);
    }
  }
  metrics.Set("seconds", absl::ToDoubleSeconds(options_.clock() - start));
  RecordDict reply;
  reply.Set("metrics", std::move(metrics));
  return reply;
}

}  // namespace

ClientApp NewLoraClient(LoraAdapter& adapter, TasksFor tasks, LoraClientOptions options) {
  const auto client = std::make_shared<LoraClient>(adapter, std::move(tasks), std::move(options));
  ClientApp app;
  app.OnTrain([client](const Message& message,
                       Context& context) { return client->OnTrain(message, context); },
              "default", {MessageClippingMod()});
  app.OnEvaluate([client](const Message& message, Context& context) {
    return client->OnEvaluate(message, context);
  });
  return app;
}

}  // namespace fedumm::model
