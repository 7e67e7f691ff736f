#include "programs/results.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::programs {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

class ResultsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "results_test";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_ + "/adapter");
  }
  static RunData Data() {
    RunData data{.name = "x", .strategy = "s", .command = "c"};
    data.tasks = {{.name = "ask", .metric = "ask-share"}};
    return data;
  }
  static RoundResult Round(int64_t number, double share) {
    RoundResult round{.number = number, .updated = true};
    round.server_metrics = {{"ask-share", share}};
    round.train_metrics = {{"train-loss", 0.5}, {"ask-loss", 0.25}};
    round.nodes = {{.node_id = 7,
                    .accepted = true,
                    .metrics = {{"num-examples", int64_t{12}}, {"partition-id", int64_t{3}}}}};
    return round;
  }
  bool Exists(const std::string& name) const {
    return std::filesystem::exists(folder_ + "/" + name);
  }
  std::string folder_;
};

TEST_F(ResultsTest, EveryFileIsAViewOfTheSameRounds) {
  ASSERT_OK_AND_ASSIGN(Results results, Results::Open(folder_, Data(), /*resume=*/false));
  results.Add(Round(0, 0.25));
  results.Add(Round(1, 0.75));
  results.Finish();
  EXPECT_THAT(results.problem(), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::string json, ReadFile(folder_ + "/run.json"));
  ASSERT_OK_AND_ASSIGN(const RunData data, RunDataFromJson(json));
  ASSERT_EQ(data.rounds.size(), 2u);
  EXPECT_EQ(data.rounds[1].accuracies.at("ask"), 0.75);
  ASSERT_EQ(data.clients.size(), 1u);
  EXPECT_EQ(data.clients[0].partition_id, 3);
  EXPECT_EQ(data.clients[0].num_examples, 12);
  ASSERT_OK_AND_ASSIGN(const std::string lines, ReadFile(folder_ + "/metrics.jsonl"));
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 2);
}

TEST_F(ResultsTest, AResumedRunTakesOverTheRoundsOfItsFile) {
  {
    ASSERT_OK_AND_ASSIGN(Results results, Results::Open(folder_, Data(), /*resume=*/false));
    for (int64_t round = 0; round < 3; ++round) results.Add(Round(round, 0.1));
  }
  std::ofstream(folder_ + "/metrics.jsonl", std::ios::app) << "{\"event\": \"rou";  // a crash
  std::ofstream(folder_ + "/metrics.jsonl", std::ios::app) << "\n";
  // The crash came before round 2 was in the checkpoint: the round is run again.
  ASSERT_OK_AND_ASSIGN(Results results, Results::Open(folder_, Data(), /*resume=*/true));
  results.Add(Round(2, 0.9));
  ASSERT_EQ(results.data().rounds.size(), 3u);
  EXPECT_EQ(results.data().rounds[1].accuracies.at("ask"), 0.1);
  EXPECT_EQ(results.data().rounds[2].accuracies.at("ask"), 0.9);
}

TEST_F(ResultsTest, WhatAnEarlierRunLeftIsNotThisRunsResult) {
  for (const char* name :
       {"checkpoint", "run.json", "report.html", "summary.json", "events.out.tfevents.1.host",
        "adapter/adapter_model.safetensors", "adapter/adapter_config.json"}) {
    std::ofstream(folder_ + "/" + name) << "old";
  }
  std::ofstream(folder_ + "/notes.txt") << "the user's own";
  ASSERT_OK_AND_ASSIGN(const Results resumed, Results::Open(folder_, Data(), /*resume=*/true));
  EXPECT_TRUE(Exists("checkpoint"));
  EXPECT_TRUE(Exists("events.out.tfevents.1.host"));
  EXPECT_TRUE(Exists("adapter/adapter_model.safetensors"));
  ASSERT_OK_AND_ASSIGN(const Results results, Results::Open(folder_, Data(), /*resume=*/false));
  for (const char* name : {"checkpoint", "run.json", "report.html", "summary.json",
                           "events.out.tfevents.1.host", "adapter"}) {
    EXPECT_FALSE(Exists(name)) << name;
  }
  EXPECT_TRUE(Exists("notes.txt"));
}

TEST_F(ResultsTest, AFullDiskCostsTheLineAndNotTheRun) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  std::filesystem::create_symlink("/dev/full", folder_ + "/metrics.jsonl");
  ASSERT_OK_AND_ASSIGN(Results results, Results::Open(folder_, Data(), /*resume=*/false));
  results.Add(Round(0, 0.25));
  results.Add(Round(1, 0.75));
  results.Finish();
  ASSERT_OK_AND_ASSIGN(const std::string json, ReadFile(folder_ + "/run.json"));
  ASSERT_OK_AND_ASSIGN(const RunData data, RunDataFromJson(json));
  EXPECT_EQ(data.rounds.size(), 2u);
  EXPECT_THAT(results.problem(),
              StatusIs(absl::StatusCode::kInternal,
                       AllOf(HasSubstr("metrics.jsonl"), HasSubstr("No space left"))));
}

TEST_F(ResultsTest, ARunJsonThatCannotBeWrittenIsAProblemAtTheEnd) {
  ASSERT_OK_AND_ASSIGN(Results results, Results::Open(folder_, Data(), /*resume=*/false));
  std::filesystem::create_directories(folder_ + "/run.json/in-the-way");
  results.Finish();
  EXPECT_THAT(results.problem(), StatusIs(absl::StatusCode::kInternal, HasSubstr("run.json")));
}

}  // namespace
}  // namespace fedumm::programs
