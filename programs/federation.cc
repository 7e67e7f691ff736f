#include "programs/federation.h"

#include <cstdio>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "fedumm/strategies.h"
#include "programs/comparison.h"
#include "programs/program.h"
#include "programs/report/live_table.h"
#include "programs/results.h"

namespace fedumm::programs {
namespace {

StrategyOptions StrategyOptionsOf(const RunConfig& config) {
  return {.fraction_train = config.Number("federation.fraction-train"),
          .fraction_evaluate = config.Number("federation.fraction-evaluate"),
          .min_train_nodes = config.Integer("federation.min-train-nodes"),
          .min_evaluate_nodes = 1,
          .min_available_nodes = config.Integer("federation.min-available-nodes"),
          .evaluate_metrics_aggr_fn = MetricsOverNodes};
}

RunData DataBefore(Experiment& experiment, const FederationOptions& options) {
  const RunConfig& config = experiment.config();
  RunData data{.name = config.Text("name"),
               .strategy = config.Text("federation.strategy"),
               .command = options.command,
               .seed = static_cast<uint64_t>(config.Integer("seed")),
               .adapter_bytes = experiment.AdapterBytes(),
               .full_model_bytes = experiment.world().ModelBytes(),
               .tasks = experiment.Tasks(),
               .notes = experiment.info().notes};
  for (const auto& [key, value] : config.values) {
    data.settings.emplace_back(key, SettingText(value));
  }
  return data;
}

StartOptions StartOptionsOf(const RunConfig& config, const FederationOptions& options) {
  const int64_t num_rounds = config.Integer("federation.rounds");
  const double wait = config.Number("federation.wait-for-nodes");
  StartOptions start{
      .num_rounds = num_rounds,
      .timeout = absl::Seconds(config.Number("federation.round-timeout")),
      .quorum = config.Integer("federation.quorum"),
      .evaluate_every = config.Integer("evaluate.nodes-every"),
      .wait_for_nodes = wait > 0 ? absl::Seconds(wait) : absl::InfiniteDuration(),
      .seed = static_cast<uint64_t>(config.Integer("seed")),
      .checkpoint_path = options.run_dir + "/checkpoint",
  };
  start.train_config = {{"num-rounds", num_rounds}};
  if (const int64_t steps = config.Integer("evaluate.personalise-steps"); steps > 0) {
    start.evaluate_config = {
        {"personalise-steps", steps},
        {"personalise-learning-rate", config.Number("evaluate.personalise-learning-rate")}};
  }
  start.on_wait = [](int64_t online, int64_t needed) {
    PrintLine(absl::StrCat(online, " of ", needed, " nodes online"));
    Log()->info("waiting: {} of {} nodes online", online, needed);
  };
  return start;
}

// Held-out figures of a round, or nothing if none are due.
absl::StatusOr<MetricRecord> EvaluateRound(Experiment& experiment, int64_t round,
                                           const ArrayRecord& arrays) {
  const RunConfig& config = experiment.config();
  // The first and the last evaluation are the figures of the comparison: they take every example.
  const bool verdict = round == 0 || round == config.Integer("federation.rounds");
  if (!verdict && round % config.Integer("evaluate.every") != 0) return MetricRecord();
  return experiment.Evaluate(arrays, verdict ? 1 : config.Integer("evaluate.stride"));
}

void PrintRound(const RoundData& round, int64_t num_rounds, const std::vector<TaskData>& tasks) {
  Log()->info("round {} of {}: train loss {:.4f}, {:.1f} s", round.number, num_rounds,
              round.train_loss, round.seconds);
  std::printf("%s\n", TableRow(round, tasks).c_str());
  for (const NodeRound& node : round.nodes) {
    if (node.accepted) continue;
    std::printf("      node %llu left out: %s\n", static_cast<unsigned long long>(node.node_id),
                node.reason.c_str());
  }
  std::fflush(stdout);
}

}  // namespace

absl::StatusOr<absl::Status> RunFederation(Experiment& experiment, Grid& grid,
                                           const FederationOptions& options) {
  const RunConfig& config = experiment.config();
  FEDUMM_ASSIGN_OR_RETURN(
      const std::unique_ptr<Strategy> strategy,
      NewStrategy(config.Text("federation.strategy"), StrategyOptionsOf(config), config.values));
  FEDUMM_RETURN_IF_ERROR(MakeRunDir(options.run_dir));
  FEDUMM_ASSIGN_OR_RETURN(
      Results results,
      Results::Open(options.run_dir, DataBefore(experiment, options), options.resume));

  StartOptions start = StartOptionsOf(config, options);
  if (options.evaluate) {
    start.evaluate_fn = [&](int64_t round,
                            const ArrayRecord& arrays) -> absl::StatusOr<MetricRecord> {
      absl::StatusOr<MetricRecord> figures = EvaluateRound(experiment, round, arrays);
      // What cannot be evaluated at all is better known before hours of training.
      if (figures.ok() || round == 0) return figures;
      results.Report("evaluation", figures.status());
      return MetricRecord();
    };
  }
  const std::vector<TaskData> tasks = results.data().tasks;
  // Of a run that is resumed after its last round, too.
  bool began =
      !results.data().rounds.empty() && results.data().rounds.back().number >= start.num_rounds;
  std::printf("%s\n", TableHeader(tasks).c_str());
  std::fflush(stdout);
  start.on_round = [&](const RoundResult& result) {
    began = true;
    PrintRound(results.Add(result), start.num_rounds, tasks);
  };
  const absl::StatusOr<Result> result =
      strategy->Start(grid, experiment.adapter().ToArrays(), start);
  if (absl::IsDataLoss(result.status())) {  // a damaged checkpoint is a bad file
    return absl::InvalidArgumentError(result.status().message());
  }
  if (!result.ok()) return began ? Failed(result.status()) : result.status();

  // The adapter first: nothing else that may go wrong must cost it.
  FEDUMM_RETURN_IF_ERROR(Failed(experiment.adapter().FromArrays(result->arrays)));
  FEDUMM_RETURN_IF_ERROR(Failed(experiment.adapter().Save(options.run_dir + "/adapter")));
  RunData& data = results.data();
  for (const RoundData& round : data.rounds) data.seconds += round.seconds;
  for (const TaskData& task : tasks) {
    Verdict& verdict = data.verdicts[task.name];
    verdict.frozen.score = experiment.ScoreOf(result->rounds.front().server_metrics, task.name);
    verdict.federated.score = experiment.ScoreOf(result->rounds.back().server_metrics, task.name);
    SetGiven(config, task, RepliesUsed(data), verdict.federated);
  }
  results.Finish();
  return results.problem();
}

}  // namespace fedumm::programs
