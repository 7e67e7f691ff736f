#include "programs/comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/status_matchers.h"

namespace fedumm::programs {
namespace {

const TaskData kAsk = {.name = "ask", .default_batch_size = 8};
const TaskData kPaint = {.name = "paint", .default_batch_size = 16};

// A run of `rounds` rounds in which `accepted` replies each were used.
RunData RunOf(int64_t rounds, int64_t accepted) {
  RunData run;
  run.tasks = {kAsk, kPaint};
  run.rounds.push_back({.number = 0});
  for (int64_t round = 1; round <= rounds; ++round) {
    run.rounds.push_back({.number = round, .num_nodes = 3, .num_accepted = accepted});
  }
  return run;
}

Bar Given(const RunConfig& config, const TaskData& task, int64_t replies) {
  Bar bar;
  SetGiven(config, task, replies, bar);
  return bar;
}

TEST(ComparisonTest, CentralizedSeesAsManyExamplesAsTheFederation) {
  ASSERT_OK_AND_ASSIGN(RunConfig config, RunConfig::Defaults());
  const RunData run = RunOf(40, 2);
  EXPECT_EQ(RepliesUsed(run), 80);
  for (const int64_t factor : {1, 2, 4}) {
    config.values.Set("centralized.batch-factor", factor);
    const RunConfig centralized = CentralizedConfig(config, run);
    for (const TaskData& task : run.tasks) {
      const Bar federated = Given(config, task, RepliesUsed(run));
      const Bar given = Given(centralized, task, centralized.Integer("federation.rounds"));
      EXPECT_EQ(given.examples, federated.examples);
      EXPECT_EQ(given.steps, federated.steps / factor);
    }
  }
}

TEST(ComparisonTest, CentralizedIsGivenTheLastReplyThatDoesNotFillABatch) {
  ASSERT_OK_AND_ASSIGN(RunConfig config, RunConfig::Defaults());
  config.values.Set("centralized.batch-factor", int64_t{4});
  EXPECT_EQ(CentralizedConfig(config, RunOf(9, 1)).Integer("federation.rounds"), 3);
  EXPECT_EQ(CentralizedConfig(config, RunOf(3, 0)).Integer("federation.rounds"), 1);
}

TEST(ComparisonTest, ABatchSizeOfItsOwnGoesBeforeTheCommonOneAndTheTasksDefault) {
  ASSERT_OK_AND_ASSIGN(RunConfig config, RunConfig::Defaults());
  config.values.Set("train.local-steps", int64_t{10});
  config.values.Set("train.gradient-accumulation-steps", int64_t{3});
  EXPECT_EQ(Given(config, kAsk, 2).steps, 20);
  EXPECT_EQ(Given(config, kAsk, 2).examples, 480);
  config.values.Set("train.batch-size", int64_t{4});
  EXPECT_EQ(Given(config, kAsk, 2).examples, 240);
  config.values.Set("train.ask-batch-size", int64_t{2});
  EXPECT_EQ(Given(config, kAsk, 2).examples, 120);
  EXPECT_EQ(Given(config, kPaint, 2).examples, 240);
}

TEST(ComparisonTest, CentralizedHasALearningRateOfItsOwn) {
  ASSERT_OK_AND_ASSIGN(RunConfig config, RunConfig::Defaults());
  config.values.Set("centralized.learning-rate", 1e-2);
  EXPECT_EQ(CentralizedConfig(config, RunOf(1, 4)).Number("train.learning-rate"), 1e-2);
}

}  // namespace
}  // namespace fedumm::programs
