#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "fedumm/simulation.h"
#include "fedumm/strategy.h"
#include "programs/commands.h"
#include "programs/comparison.h"
#include "programs/experiment.h"
#include "programs/program.h"
#include "programs/report/live_table.h"
#include "programs/report/report_html.h"

namespace fedumm::programs {
namespace {

// What `client` makes of the experiment's adapter when nobody else takes part: as many rounds and
// steps as in the federation.
absl::StatusOr<ArrayRecord> TrainOne(Experiment& experiment, const RunConfig& config,
                                     const ClientApp& client) {
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Grid> grid,
                          NewSimulation(client, {.num_nodes = 1, .run_config = config.values}));
  const int64_t num_rounds = config.Integer("federation.rounds");
  absl::Status trained;
  Strategy strategy({.fraction_evaluate = 0, .min_train_nodes = 1, .min_available_nodes = 1});
  StartOptions start{.num_rounds = num_rounds,
                     .seed = static_cast<uint64_t>(config.Integer("seed")),
                     .train_config = {{"num-rounds", num_rounds}}};
  start.on_round = [&trained](const RoundResult& round) {
    if (round.number == 0 || round.updated) return;
    trained.Update(absl::InternalError(
        absl::StrCat("round ", round.number,
                     " failed: ", round.nodes.empty() ? "no reply" : round.nodes.front().reason)));
  };
  FEDUMM_ASSIGN_OR_RETURN(Result result,
                          strategy.Start(*grid, experiment.adapter().ToArrays(), std::move(start)));
  FEDUMM_RETURN_IF_ERROR(trained);
  return std::move(result.arrays);
}

// Client `partition_id` of `num_partitions`, alone, with the training settings of `config`.
absl::StatusOr<MetricRecord> TrainAlone(Experiment& experiment, const RunConfig& config,
                                        int64_t partition_id, int64_t num_partitions) {
  FEDUMM_ASSIGN_OR_RETURN(ClientApp client, NewExperimentClient(experiment));
  client.Wrap([&](const Message& message, Context& context, const ClientAppCall& next) {
    context.node_config = {{"partition-id", partition_id}, {"num-partitions", num_partitions}};
    return next(message, context);
  });
  FEDUMM_ASSIGN_OR_RETURN(const ArrayRecord arrays, TrainOne(experiment, config, client));
  return experiment.Evaluate(arrays, 1);
}

// Runs the trainings `jobs` at a time, each on a model of its own: all examples in one place first,
// then each client alone.
absl::Status TrainAlternatives(Experiment& experiment, int64_t jobs, RunData& run) {
  const RunConfig& config = experiment.config();
  const RunConfig centralized = CentralizedConfig(config, run);
  const int64_t clients = config.Integer("federation.clients");
  std::vector<absl::StatusOr<MetricRecord>> results(static_cast<size_t>(clients) + 1,
                                                    absl::UnknownError("not run"));
  Mutex cloning;
  const auto train = [&](size_t i) -> absl::StatusOr<MetricRecord> {
    absl::StatusOr<std::unique_ptr<Experiment>> own;
    {
      const MutexLock lock(cloning);
      own = experiment.Clone();
    }
    FEDUMM_RETURN_IF_ERROR(own.status());
    if (i == 0) return TrainAlone(**own, centralized, 0, 1);
    return TrainAlone(**own, config, static_cast<int64_t>(i) - 1, clients);
  };
  std::atomic<size_t> next = 0;
  std::atomic<size_t> done = 0;
  const auto work = [&] {
    for (size_t i = next++; i < results.size(); i = next++) {
      const absl::Time start = absl::Now();
      results[i] = train(i);
      const std::string what = i == 0 ? "trained on all examples together"
                                      : absl::StrCat("trained client ", i - 1, " alone");
      Log()->info("{} in {:.1f} s", what, absl::ToDoubleSeconds(absl::Now() - start));
      std::printf("%s (%zu of %zu)\n", what.c_str(), ++done, results.size());
      std::fflush(stdout);
    }
  };
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < std::min<int64_t>(jobs, clients + 1); ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) FEDUMM_RETURN_IF_ERROR(result.status());
  const auto bar = [&](const MetricRecord& metrics, const TaskData& task, const RunConfig& given) {
    Bar made{experiment.ScoreOf(metrics, task.name)};
    SetGiven(given, task, given.Integer("federation.rounds"), made);
    return made;
  };
  for (const TaskData& task : run.tasks) {
    Verdict& verdict = run.verdicts[task.name];
    verdict.centralized = bar(*results[0], task, centralized);
    verdict.alone.clear();
    for (size_t i = 1; i < results.size(); ++i) {
      verdict.alone.push_back(bar(*results[i], task, config));
    }
  }
  return absl::OkStatus();
}

// The world's samples by the frozen model and by the federated one.
absl::Status AddSamples(Experiment& experiment, const ArrayRecord& frozen,
                        const ArrayRecord& federated, RunData& run) {
  FEDUMM_RETURN_IF_ERROR(experiment.adapter().FromArrays(frozen));
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<model::Sample> before, experiment.world().Samples());
  FEDUMM_RETURN_IF_ERROR(experiment.adapter().FromArrays(federated));
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<model::Sample> after, experiment.world().Samples());
  run.samples.clear();
  for (size_t i = 0; i < std::min(before.size(), after.size()); ++i) {
    run.samples.push_back({.task = after[i].task,
                           .prompt = after[i].prompt,
                           .png = after[i].png,
                           .truth = after[i].truth,
                           .before = before[i].answer,
                           .after = after[i].answer,
                           .png_before = before[i].answer_png,
                           .png_after = after[i].answer_png,
                           .right_before = before[i].right,
                           .right_after = after[i].right});
  }
  return absl::OkStatus();
}

// The classes that each client holds, and the clients in the order of their partitions.
absl::Status Describe(Experiment& experiment, std::vector<ClientData>& clients) {
  const int64_t num_partitions = experiment.config().Integer("federation.clients");
  for (ClientData& client : clients) {
    if (client.partition_id < 0 || client.partition_id >= num_partitions) continue;
    FEDUMM_ASSIGN_OR_RETURN(std::vector<model::Holding> holdings,
                            experiment.world().Describe(client.partition_id, num_partitions));
    for (model::Holding& holding : holdings) {
      client.histograms[holding.task] = std::move(holding.counts);
    }
  }
  std::sort(clients.begin(), clients.end(), [](const ClientData& a, const ClientData& b) {
    return a.partition_id < b.partition_id;
  });
  return absl::OkStatus();
}

// INVALID_ARGUMENT, naming the first keys that differ, unless the run was made with these settings.
absl::Status CheckSameSettings(const RunConfig& config, const RunData& run,
                               const CompareArguments& arguments) {
  constexpr size_t kMaxNamed = 3;
  std::vector<std::string> differences;
  const auto add = [&](const std::string& key, const std::string& in_run,
                       const std::string& in_config) {
    differences.push_back(absl::StrCat(key, " is ", in_run, " there and ", in_config, " here"));
  };
  for (const auto& [key, text] : run.settings) {
    if (key == "data.folder") continue;  // may be named by --data
    const ConfigValue* value = config.values.Find(key);
    if (value == nullptr) {
      add(key, text, "unknown");
    } else if (SettingText(*value) != text) {
      add(key, text, SettingText(*value));
    }
  }
  if (differences.empty()) return absl::OkStatus();
  const size_t more = differences.size() - std::min(kMaxNamed, differences.size());
  differences.resize(differences.size() - more);
  return absl::InvalidArgumentError(absl::StrCat(
      arguments.run_dir, "/run.json was not made with ", arguments.config, ": ",
      absl::StrJoin(differences, ", "), more == 0 ? "" : absl::StrCat(", and ", more, " more")));
}

}  // namespace

absl::Status CompareCommand(const CompareArguments& arguments) {
  FEDUMM_ASSIGN_OR_RETURN(const RunConfig config, LoadConfig(arguments));
  FEDUMM_ASSIGN_OR_RETURN(const std::string json, ReadFile(arguments.run_dir + "/run.json"));
  FEDUMM_ASSIGN_OR_RETURN(RunData run, RunDataFromJson(json));
  FEDUMM_RETURN_IF_ERROR(CheckSameSettings(config, run, arguments));
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Experiment> experiment, Experiment::Create(config));
  const absl::Time start = absl::Now();

  FEDUMM_RETURN_IF_ERROR(TrainAlternatives(*experiment, arguments.jobs, run));
  const ArrayRecord frozen = experiment->adapter().ToArrays();
  FEDUMM_RETURN_IF_ERROR(experiment->UseAdapter(arguments.run_dir + "/adapter"));
  const ArrayRecord federated = experiment->adapter().ToArrays();
  FEDUMM_RETURN_IF_ERROR(AddSamples(*experiment, frozen, federated, run));
  FEDUMM_RETURN_IF_ERROR(Describe(*experiment, run.clients));
  run.seconds = arguments.started > 0
                    ? absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()) - arguments.started
                    : run.seconds + absl::ToDoubleSeconds(absl::Now() - start);

  std::printf("\n%s", VerdictTable(run).c_str());
  absl::Status written;  // the other files are written even if one cannot be
  written.Update(WriteFileAtomically(arguments.run_dir + "/run.json", ToJson(run)));
  written.Update(WriteFileAtomically(arguments.run_dir + "/report.html", ReportHtml(run)));
  written.Update(WriteFileAtomically(arguments.run_dir + "/summary.json", SummaryJson(run)));
  return Failed(written);
}

}  // namespace fedumm::programs
