#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "fedumm/model/image.h"
#include "fedumm/simulation.h"
#include "fedumm/strategies.h"
#include "programs/commands.h"
#include "programs/comparison.h"
#include "programs/experiment.h"
#include "programs/federation.h"
#include "programs/report/live_table.h"
#include "programs/report/report_html.h"

namespace fedumm::programs {
namespace {

// What `client` makes of the experiment's adapter in `federation.rounds` rounds when nobody else
// takes part.
absl::StatusOr<ArrayRecord> TrainOne(Experiment& experiment, const ClientApp& client) {
  FEDUMM_ASSIGN_OR_RETURN(
      const std::unique_ptr<Grid> grid,
      NewSimulation(client, {.num_nodes = 1, .run_config = experiment.config().values}));
  const int64_t num_rounds = experiment.config().Integer("federation.rounds");
  FedAvg strategy({.fraction_evaluate = 0, .min_train_nodes = 1, .min_available_nodes = 1});
  FEDUMM_ASSIGN_OR_RETURN(
      Result result,
      strategy.Start(*grid, experiment.adapter().ToArrays(),
                     {.num_rounds = num_rounds,
                      .seed = static_cast<uint64_t>(experiment.config().Integer("seed")),
                      .train_config = {{"num-rounds", num_rounds}}}));
  for (const RoundResult& round : result.rounds) {
    if (round.number > 0 && !round.updated) {
      return absl::InternalError(
          absl::StrCat("round ", round.number,
                       " failed: ", round.nodes.empty() ? "no reply" : round.nodes.front().reason));
    }
  }
  return std::move(result.arrays);
}

// Client `partition_id` of `num_partitions`, alone: as many rounds and steps as in the federation.
absl::StatusOr<MetricRecord> TrainAlone(const RunConfig& config, const model::EasyVqa& data,
                                        int64_t partition_id, int64_t num_partitions) {
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Experiment> experiment,
                          Experiment::Create(config, data));
  const std::unique_ptr<ClientApp> client = NewExperimentClient(*experiment);
  ClientApp alone;
  alone.OnTrain([&](const Message& message, Context& context) {
    context.node_config = {{"partition-id", partition_id}, {"num-partitions", num_partitions}};
    return client->Handle(message, context);
  });
  FEDUMM_ASSIGN_OR_RETURN(const ArrayRecord arrays, TrainOne(*experiment, alone));
  return experiment->Evaluate(arrays, 1);
}

// Runs the trainings `jobs` at a time, each on a model of its own.
absl::Status TrainAlternatives(const RunConfig& config, const model::EasyVqa& data, int64_t jobs,
                               RunData& run) {
  const int64_t clients = config.Integer("federation.clients");
  std::vector<absl::StatusOr<MetricRecord>> results(static_cast<size_t>(clients) + 1,
                                                    absl::UnknownError("not run"));
  const RunConfig centralized = CentralizedConfig(config, RepliesUsed(run));
  std::atomic<size_t> next = 0;
  std::atomic<size_t> done = 0;
  const auto work = [&] {
    for (size_t i = next++; i < results.size(); i = next++) {
      results[i] = i == 0 ? TrainAlone(centralized, data, 0, 1)
                          : TrainAlone(config, data, static_cast<int64_t>(i) - 1, clients);
      std::printf("%s (%zu of %zu)\n",
                  i == 0 ? "trained on all examples together"
                         : absl::StrCat("trained client ", i - 1, " alone").c_str(),
                  ++done, results.size());
      std::fflush(stdout);
    }
  };
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < std::min<int64_t>(jobs, clients + 1); ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) FEDUMM_RETURN_IF_ERROR(result.status());
  for (auto& [task, verdict] : run.verdicts) {
    verdict.centralized = ScoreOf(*results[0], task);
    verdict.federated_given = GivenOf(config, task, RepliesUsed(run));
    verdict.alone_given = GivenOf(config, task, config.Integer("federation.rounds"));
    verdict.centralized_given =
        GivenOf(centralized, task, centralized.Integer("federation.rounds"));
    verdict.alone.clear();
    for (size_t i = 1; i < results.size(); ++i) verdict.alone.push_back(ScoreOf(*results[i], task));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> PngOf(model::Picture picture) {
  return model::EncodePng({.width = model::kPictureSize,
                           .height = model::kPictureSize,
                           .pixels = {picture.begin(), picture.end()}});
}

std::string PromptOf(model::Concept wanted) {
  return std::string("draw a ") + std::string(model::kColors[static_cast<size_t>(wanted.color)]) +
         " " + std::string(model::kShapes[static_cast<size_t>(wanted.shape)]);
}

// A dozen held-out questions and all kinds of drawings, by the frozen model and by the federated
// one.
absl::Status AddSamples(Experiment& experiment, const ArrayRecord& frozen,
                        const ArrayRecord& federated, RunData& run) {
  const model::EasyVqaSplit& test = experiment.world().data().test;
  std::vector<int64_t> questions;
  for (size_t i = 0; i < 12; ++i) {
    // From all over the test set; two thirds on new concepts, where something was to be learnt.
    for (size_t j = i * test.balanced.size() / 12; j < test.balanced.size(); ++j) {
      if (test.questions[static_cast<size_t>(test.balanced[j])].is_new == (i % 3 != 0)) {
        questions.push_back(test.balanced[j]);
        break;
      }
    }
  }
  const model::DrawOptions draw = {.per_prompt = 1, .seed = 1};
  std::vector<std::vector<std::string>> answers;
  std::vector<std::vector<model::Drawing>> drawings;
  for (const ArrayRecord* arrays : {&frozen, &federated}) {
    FEDUMM_RETURN_IF_ERROR(experiment.adapter().FromArrays(*arrays));
    FEDUMM_ASSIGN_OR_RETURN(auto answered, experiment.world().Answer(questions));
    answers.push_back(std::move(answered));
    FEDUMM_ASSIGN_OR_RETURN(auto drawn, experiment.world().Draw(draw));
    drawings.push_back(std::move(drawn));
  }
  run.questions.clear();
  for (size_t i = 0; i < questions.size(); ++i) {
    const model::Question& question = test.questions[static_cast<size_t>(questions[i])];
    FEDUMM_ASSIGN_OR_RETURN(std::string png, PngOf(test.picture(question.picture)));
    run.questions.push_back(
        {std::move(png), question.text, question.answer, answers[0][i], answers[1][i]});
  }
  run.drawings.clear();
  for (size_t i = 0; i < drawings[0].size(); ++i) {
    FEDUMM_ASSIGN_OR_RETURN(std::string before, PngOf(drawings[0][i].pixels));
    FEDUMM_ASSIGN_OR_RETURN(std::string after, PngOf(drawings[1][i].pixels));
    run.drawings.push_back({PromptOf(drawings[0][i].wanted), std::move(before), std::move(after),
                            drawings[0][i].right(), drawings[1][i].right()});
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CompareCommand(const CompareArguments& arguments) {
  FEDUMM_ASSIGN_OR_RETURN(const RunConfig config, RunConfig::Load(arguments.config));
  FEDUMM_ASSIGN_OR_RETURN(const std::string json, ReadFile(arguments.run_dir + "/run.json"));
  FEDUMM_ASSIGN_OR_RETURN(RunData run, RunDataFromJson(json));
  FEDUMM_ASSIGN_OR_RETURN(const model::EasyVqa data,
                          model::EasyVqa::Load(arguments.data, config.Flag("data.negated")));
  const absl::Time start = absl::Now();

  FEDUMM_RETURN_IF_ERROR(TrainAlternatives(config, data, arguments.jobs, run));

  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Experiment> experiment,
                          Experiment::Create(config, data));
  const ArrayRecord frozen = experiment->adapter().ToArrays();
  FEDUMM_RETURN_IF_ERROR(experiment->UseAdapter(arguments.run_dir + "/adapter"));
  const ArrayRecord federated = experiment->adapter().ToArrays();
  FEDUMM_RETURN_IF_ERROR(AddSamples(*experiment, frozen, federated, run));
  const int64_t clients = config.Integer("federation.clients");
  for (ClientData& client : run.clients) {
    if (client.partition_id < 0 || client.partition_id >= clients) continue;
    FEDUMM_ASSIGN_OR_RETURN(ClientData described,
                            experiment->Describe(client.partition_id, clients));
    client.histograms = std::move(described.histograms);
  }
  std::sort(run.clients.begin(), run.clients.end(), [](const ClientData& a, const ClientData& b) {
    return a.partition_id < b.partition_id;
  });

  run.seconds = arguments.started > 0
                    ? absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()) - arguments.started
                    : run.seconds + absl::ToDoubleSeconds(absl::Now() - start);
  FEDUMM_RETURN_IF_ERROR(WriteFileAtomically(arguments.run_dir + "/run.json", ToJson(run)));
  FEDUMM_RETURN_IF_ERROR(WriteFileAtomically(arguments.run_dir + "/report.html", ReportHtml(run)));
  FEDUMM_RETURN_IF_ERROR(
      WriteFileAtomically(arguments.run_dir + "/summary.json", SummaryJson(run)));
  std::printf("\n%s", VerdictTable(run).c_str());
  return absl::OkStatus();
}

}  // namespace fedumm::programs
