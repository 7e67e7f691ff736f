#include "programs/comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/status_matchers.h"

namespace fedumm::programs {
namespace {

// A run of `rounds` rounds in which `accepted` of three nodes were used.
RunData RunOf(int64_t rounds, int64_t accepted) {
  RunData run;
  run.rounds.push_back({.number = 0});
  for (int64_t round = 1; round <= rounds; ++round) {
    RoundData& added = run.rounds.emplace_back();
    added.number = round;
    for (int64_t node = 0; node < 3; ++node) added.nodes.push_back({.accepted = node < accepted});
  }
  return run;
}

TEST(ComparisonTest, CentralizedSeesAsManyExamplesAsTheFederation) {
  ASSERT_OK_AND_ASSIGN(RunConfig config, RunConfig::FromRecord({}));
  for (const int64_t factor : {1, 2, 4}) {
    config.values.Set("centralized.batch-factor", factor);
    const int64_t replies = RepliesUsed(RunOf(40, 2));
    EXPECT_EQ(replies, 80);
    const RunConfig centralized = CentralizedConfig(config, replies);
    for (const std::string task : {"vqa", "draw"}) {
      const Given federated = GivenOf(config, task, replies);
      const Given given = GivenOf(centralized, task, centralized.Integer("federation.rounds"));
      EXPECT_EQ(given.examples, federated.examples);
      EXPECT_EQ(given.steps, federated.steps / factor);
    }
  }
}

TEST(ComparisonTest, CentralizedIsGivenTheLastReplyThatDoesNotFillABatch) {
  ASSERT_OK_AND_ASSIGN(RunConfig config, RunConfig::FromRecord({}));
  config.values.Set("centralized.batch-factor", int64_t{4});
  EXPECT_EQ(CentralizedConfig(config, 9).Integer("federation.rounds"), 3);
  EXPECT_EQ(CentralizedConfig(config, 0).Integer("federation.rounds"), 1);
}

TEST(ComparisonTest, AccumulatedBatchesCount) {
  ASSERT_OK_AND_ASSIGN(RunConfig config, RunConfig::FromRecord({}));
  config.values.Set("train.local-steps", int64_t{10});
  config.values.Set("train.vqa-batch-size", int64_t{8});
  config.values.Set("train.gradient-accumulation-steps", int64_t{3});
  EXPECT_EQ(GivenOf(config, "vqa", 2).steps, 20);
  EXPECT_EQ(GivenOf(config, "vqa", 2).examples, 480);
}

TEST(ComparisonTest, CentralizedHasALearningRateOfItsOwn) {
  ASSERT_OK_AND_ASSIGN(RunConfig config, RunConfig::FromRecord({}));
  config.values.Set("centralized.learning-rate", 1e-2);
  EXPECT_EQ(CentralizedConfig(config, 4).Number("train.learning-rate"), 1e-2);
}

}  // namespace
}  // namespace fedumm::programs
