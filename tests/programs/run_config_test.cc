#include "programs/run_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "programs/program.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::programs {
namespace {

using ::fedumm::testing::StatusIs;
using ::testing::HasSubstr;

absl::StatusOr<RunConfig> LoadText(const std::string& toml) {
  const std::string path = ::testing::TempDir() + "/run_config_test.toml";
  std::ofstream(path) << toml;
  return RunConfig::Load(path);
}

TEST(RunConfig, TakesDefaultsForWhatIsMissing) {
  ASSERT_OK_AND_ASSIGN(const RunConfig config, LoadText("[lora]\nr = 4\n"));
  EXPECT_EQ(config.Integer("lora.r"), 4);
  EXPECT_EQ(config.Number("lora.lora-alpha"), 12.0);
  EXPECT_EQ(config.Text("train.tasks"), "vqa,draw");
}

TEST(RunConfig, JoinsListsAndWidensIntegers) {
  ASSERT_OK_AND_ASSIGN(
      const RunConfig config,
      LoadText("[lora]\nlora-alpha = 32\ntarget-modules = [\"q_proj\", \"v_proj\"]\n"));
  EXPECT_EQ(config.Number("lora.lora-alpha"), 32.0);
  EXPECT_EQ(config.Text("lora.target-modules"), "q_proj,v_proj");
}

TEST(RunConfig, NamesLineAndKeyOfAMistake) {
  EXPECT_THAT(LoadText("name = \"x\"\n[lora]\nrank = 4\n"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       ::testing::AllOf(HasSubstr("line 3"), HasSubstr("'lora.rank'"))));
  EXPECT_THAT(
      LoadText("[lora]\nr = \"four\"\n"),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'lora.r' must be a whole number")));
  EXPECT_THAT(LoadText("[lora]\nr = 0\n"), StatusIs(absl::StatusCode::kInvalidArgument,
                                                    HasSubstr("'lora.r' must be positive: 0")));
  EXPECT_THAT(LoadText("[federation]\nstrategy = \"fedsgd\"\n"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("fedsgd")));
  EXPECT_THAT(LoadText("[lora\n"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("line 1")));
}

TEST(RunConfig, TravelsAsARecordAndKeepsWhatItDoesNotKnow) {
  ASSERT_OK_AND_ASSIGN(const RunConfig sent, LoadText("seed = 3\n[train]\nlocal-steps = 7\n"));
  ConfigRecord received = sent.values;
  received.Set("my.own", int64_t{5});
  ASSERT_OK_AND_ASSIGN(const RunConfig config, RunConfig::FromRecord(received));
  EXPECT_EQ(config.Integer("train.local-steps"), 7);
  EXPECT_EQ(config.Integer("my.own"), 5);
}

TEST(RunConfig, AHostileRecordIsRefused) {
  EXPECT_THAT(RunConfig::FromRecord({{"train.local-steps", int64_t{-1}}}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(RunConfig::FromRecord({{"train.local-steps", "many"}}),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(NodeConfig, ReadsFlowersKeyValueForm) {
  ASSERT_OK_AND_ASSIGN(const ConfigRecord record,
                       ParseKeyValues(" client-name=\"site 1\" partition-id=0 rate=0.5 gpu=true"));
  EXPECT_EQ(std::get<std::string>(*record.Find("client-name")), "site 1");
  EXPECT_EQ(std::get<int64_t>(*record.Find("partition-id")), 0);
  EXPECT_EQ(std::get<double>(*record.Find("rate")), 0.5);
  EXPECT_EQ(std::get<bool>(*record.Find("gpu")), true);
}

TEST(NodeConfig, NamesWhatIsNoKeyValuePair) {
  EXPECT_THAT(ParseKeyValues("partition-id"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'partition-id'")));
  EXPECT_THAT(ParseKeyValues("a=1 a=2"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("twice")));
  EXPECT_THAT(ParseKeyValues("a=\"x"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("quote")));
}

}  // namespace
}  // namespace fedumm::programs
