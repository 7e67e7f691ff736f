#include "programs/federation.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "fedumm/model/client.h"
#include "fedumm/strategies.h"
#include "programs/program.h"
#include "programs/report/live_table.h"
#include "programs/report/tensorboard.h"

namespace fedumm::programs {
namespace {

double Now() { return absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()); }

RoundData RoundDataOf(const RoundResult& result, const std::vector<std::string>& tasks) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  RoundData round{.number = result.number,
                  .seconds = absl::ToDoubleSeconds(result.duration),
                  .train_loss = NumberOr(result.train_metrics, "train-loss", nan)};
  for (const std::string& task : tasks) {
    const double loss = NumberOr(result.train_metrics, task + "-loss", nan);
    if (std::isfinite(loss)) round.losses[task] = loss;
    const double accuracy = NumberOr(result.server_metrics, task + "-accuracy", nan);
    if (std::isfinite(accuracy)) round.accuracies[task] = accuracy;
  }
  for (const NodeOutcome& node : result.nodes) {
    round.nodes.push_back({node.node_id, node.accepted, node.reason, node.traffic.bytes_down,
                           node.traffic.bytes_up, NumberOr(node.metrics, "num-examples", 0)});
  }
  return round;
}

// The files that grow while a run goes on.
class RunLog {
 public:
  static absl::StatusOr<RunLog> Create(const std::string& run_dir, bool append) {
    FEDUMM_ASSIGN_OR_RETURN(TensorBoardWriter events, TensorBoardWriter::Create(run_dir, Now()));
    std::ofstream metrics(run_dir + "/metrics.jsonl", append ? std::ios::app : std::ios::trunc);
    if (!metrics) {
      return absl::InvalidArgumentError(absl::StrCat("cannot write ", run_dir, "/metrics.jsonl"));
    }
    return RunLog(std::move(events), std::move(metrics));
  }

  absl::Status Add(const RoundData& round) {
    nlohmann::ordered_json line = {
        {"event", "round"}, {"round", round.number}, {"time", Now()}, {"seconds", round.seconds}};
    const auto scalar = [&](const std::string& tag, double value) -> absl::Status {
      if (!std::isfinite(value)) return absl::OkStatus();
      line[tag] = value;
      return events_.AddScalar(tag, round.number, static_cast<float>(value), Now());
    };
    FEDUMM_RETURN_IF_ERROR(scalar("train-loss", round.train_loss));
    for (const auto& [task, loss] : round.losses) {
      FEDUMM_RETURN_IF_ERROR(scalar(task + "-loss", loss));
    }
    for (const auto& [task, accuracy] : round.accuracies) {
      FEDUMM_RETURN_IF_ERROR(scalar(task + "-accuracy", accuracy));
    }
    line["nodes"] = nlohmann::ordered_json::array();
    for (const NodeRound& node : round.nodes) {
      line["nodes"].push_back({{"node_id", node.node_id},
                               {"accepted", node.accepted},
                               {"reason", node.reason},
                               {"num-examples", node.num_examples},
                               {"bytes_down", node.bytes_down},
                               {"bytes_up", node.bytes_up}});
    }
    metrics_ << line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << std::endl;
    return metrics_ ? absl::OkStatus() : absl::DataLossError("cannot write metrics.jsonl");
  }

 private:
  RunLog(TensorBoardWriter events, std::ofstream metrics)
      : events_(std::move(events)), metrics_(std::move(metrics)) {}

  TensorBoardWriter events_;
  std::ofstream metrics_;
};

StrategyOptions StrategyOptionsOf(const RunConfig& config) {
  return {.fraction_train = config.Number("federation.fraction-train"),
          .fraction_evaluate = 0,  // the server evaluates on held-out examples
          .min_train_nodes = config.Integer("federation.min-train-nodes"),
          .min_available_nodes = config.Integer("federation.min-available-nodes")};
}

RunData RunDataOf(Experiment& experiment, const FederationOptions& options, const Result& result) {
  const RunConfig& config = experiment.config();
  RunData data{.name = config.Text("name"),
               .strategy = config.Text("federation.strategy"),
               .command = options.command,
               .frozen = std::string(model::kFrozenModelHasSeen),
               .seed = static_cast<uint64_t>(config.Integer("seed")),
               .adapter_bytes = experiment.AdapterBytes(),
               .full_model_bytes = experiment.FullModelBytes()};
  for (const auto& [key, value] : config.values) {
    data.settings.emplace_back(key, std::visit(
                                        [](const auto& v) -> std::string {
                                          using V = std::decay_t<decltype(v)>;
                                          if constexpr (std::is_same_v<V, std::string>)
                                            return v;
                                          else if constexpr (std::is_same_v<V, bool>)
                                            return v ? "true" : "false";
                                          else if constexpr (std::is_arithmetic_v<V>)
                                            return absl::StrCat(v);
                                          else
                                            return "";
                                        },
                                        value));
  }
  const std::vector<std::string> tasks = TaskNames(config);
  for (const RoundResult& round : result.rounds) {
    data.rounds.push_back(RoundDataOf(round, tasks));
    data.seconds += data.rounds.back().seconds;
  }
  for (const std::string& task : tasks) {
    data.verdicts[task].frozen = ScoreOf(result.rounds.front().server_metrics, task);
    data.verdicts[task].federated = ScoreOf(result.rounds.back().server_metrics, task);
  }
  std::map<uint64_t, int64_t> partitions;  // of every node that took part, -1 if it never said
  for (const RoundResult& round : result.rounds) {
    for (const NodeOutcome& node : round.nodes) {
      const double said = NumberOr(node.metrics, "partition-id", -1);
      int64_t& partition = partitions.emplace(node.node_id, -1).first->second;
      if (said >= 0 && said < 1e6) partition = static_cast<int64_t>(said);
    }
  }
  for (const auto& [node_id, partition] : partitions) {
    data.clients.push_back({.partition_id = partition, .node_id = node_id});
  }
  return data;
}

}  // namespace

std::unique_ptr<ClientApp> NewExperimentClient(Experiment& experiment) {
  const ClientApp trainer = model::NewLoraClient(
      experiment.adapter(), [&experiment](int64_t partition_id, int64_t num_partitions) {
        return experiment.TasksOf(partition_id, num_partitions);
      });
  // Node ids are drawn at random; the report tells clients apart by their partition.
  const auto handle = [trainer](const Message& message,
                                Context& context) -> absl::StatusOr<RecordDict> {
    FEDUMM_ASSIGN_OR_RETURN(RecordDict reply, trainer.Handle(message, context));
    if (const MetricRecord* metrics = reply.FindMetrics("metrics"); metrics != nullptr) {
      MetricRecord with_partition = *metrics;
      with_partition.Set("partition-id", NumberOr(context.node_config, "partition-id", -1));
      reply.Set("metrics", std::move(with_partition));
    }
    return reply;
  };
  auto client = std::make_unique<ClientApp>();
  client->OnTrain(handle).OnEvaluate(handle);
  return client;
}

absl::StatusOr<Result> RunFederation(Experiment& experiment, Grid& grid,
                                     const FederationOptions& options) {
  const RunConfig& config = experiment.config();
  const std::vector<std::string> tasks = TaskNames(config);
  FEDUMM_RETURN_IF_ERROR(MakeRunDir(options.run_dir));
  std::error_code error;
  const std::string checkpoint = options.run_dir + "/checkpoint";
  if (!options.resume) std::filesystem::remove(checkpoint, error);
  FEDUMM_ASSIGN_OR_RETURN(RunLog log, RunLog::Create(options.run_dir, options.resume));

  const int64_t num_rounds = config.Integer("federation.rounds");
  const int64_t every = config.Integer("evaluate.every");
  StartOptions start{
      .num_rounds = num_rounds,
      .timeout = absl::Seconds(config.Number("federation.round-timeout")),
      .quorum = config.Integer("federation.quorum"),
      .seed = static_cast<uint64_t>(config.Integer("seed")),
      .checkpoint_path = checkpoint,
  };
  start.train_config = {{"num-rounds", num_rounds}};
  if (options.evaluate) {
    start.evaluate_fn = [&](int64_t round,
                            const ArrayRecord& arrays) -> absl::StatusOr<MetricRecord> {
      // Before the first round and after the last every example counts: these are the figures of
      // the verdict.
      const bool verdict = round == 0 || round == num_rounds;
      if (!verdict && round % every != 0) return MetricRecord();
      return experiment.Evaluate(arrays, verdict ? 1 : config.Integer("evaluate.stride"));
    };
  }
  absl::Status log_status;
  std::printf("%s\n", TableHeader(tasks).c_str());
  start.on_round = [&](const RoundResult& result) {
    const RoundData round = RoundDataOf(result, tasks);
    log_status.Update(log.Add(round));
    Log()->info("round {} of {}: train loss {:.4f}, {:.1f} s", round.number, num_rounds,
                round.train_loss, round.seconds);
    std::printf("%s\n", TableRow(round, tasks).c_str());
    for (const NodeRound& node : round.nodes) {
      if (!node.accepted) {
        std::printf("      node %llu left out: %s\n", static_cast<unsigned long long>(node.node_id),
                    node.reason.c_str());
      }
    }
    std::fflush(stdout);
  };
  FedAvg strategy(StrategyOptionsOf(config));
  FEDUMM_ASSIGN_OR_RETURN(const Result result,
                          strategy.Start(grid, experiment.adapter().ToArrays(), start));
  FEDUMM_RETURN_IF_ERROR(log_status);

  FEDUMM_RETURN_IF_ERROR(experiment.adapter().FromArrays(result.arrays));
  FEDUMM_RETURN_IF_ERROR(experiment.adapter().Save(options.run_dir + "/adapter"));
  FEDUMM_RETURN_IF_ERROR(WriteFileAtomically(options.run_dir + "/run.json",
                                             ToJson(RunDataOf(experiment, options, result))));
  return result;
}

}  // namespace fedumm::programs
