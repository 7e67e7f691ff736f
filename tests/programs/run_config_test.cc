#include "programs/run_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "fedumm/model/demo.h"
#include "fedumm/model/world.h"
#include "programs/program.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::programs {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::IsOkAndHolds;
using ::fedumm::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

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

TEST(RunConfig, NamesFileLineAndKeyOfAMistake) {
  EXPECT_THAT(LoadText("name = \"x\"\n[lora]\nlora_alpha = 4\n"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("run_config_test.toml: line 3"),
                             HasSubstr("'lora.lora_alpha' (did you mean 'lora.lora-alpha'?)"))));
  EXPECT_THAT(LoadText("[lora]\nr = \"four\"\n"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("line 2"), HasSubstr("'lora.r' must be a whole number"))));
  EXPECT_THAT(LoadText("[lora]\nr = 0\n"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'lora.r' must be")));
  EXPECT_THAT(LoadText("[federation]\nstrategy = \"fedsgd\"\n"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("fedsgd")));
  EXPECT_THAT(
      LoadText("[world]\nkind = \"moon\"\n"),
      StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("line 2"), HasSubstr("moon"))));
  EXPECT_THAT(LoadText("[lora\n"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("line 1")));
}

TEST(RunConfig, SettingsThatDoNotFitEachOtherAreRefusedBeforeAnythingStarts) {
  EXPECT_THAT(LoadText("mods = [\"fixed-cliping\"]\n"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'fixed-cliping'")));
  EXPECT_THAT(LoadText("mods = [\"fixed-clipping\"]\n"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'mod.clipping-norm'")));
  EXPECT_THAT(LoadText("[mod]\nclipping-norm = 1.0\n"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'mod.clipping-norm'")));
  EXPECT_THAT(LoadText("[strategy]\nproximal-mu = 0.1\n"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'strategy.proximal-mu'")));
  EXPECT_THAT(LoadText("mods = [\"fixed-clipping\"]\n[mod]\nclipping-norm = 1.0\n"), IsOk());
}

TEST(RunConfig, AnOldKeyNameStillWorks) {
  ASSERT_OK_AND_ASSIGN(const RunConfig config, LoadText("[data]\ndataset = \"easy-vqa\"\n"));
  EXPECT_EQ(config.Text("world.kind"), "easy-vqa");
}

TEST(RunConfig, PrintedSettingsAreReadBack) {
  ASSERT_OK_AND_ASSIGN(
      const RunConfig config,
      LoadText("seed = 7\nname = \"a 'quoted'\\\\ \\\"name\\\"\\nof\\ttwo lines\"\n"
               "mods = [\"arrays-size\"]\n[lora]\nr = 3\nlora-alpha = 1e-9\n"));
  ASSERT_OK_AND_ASSIGN(const std::vector<Setting> table, RunSettings(config.Text("world.kind")));
  ASSERT_OK_AND_ASSIGN(const RunConfig read, LoadText(SettingsToml(table, config)));
  for (const Setting& setting : table) {
    EXPECT_EQ(*read.values.Find(setting.key), *config.values.Find(setting.key)) << setting.key;
  }
}

// A run config that lacks training settings must train as configs/demo.toml says.
TEST(RunConfig, TheDemosFileHasTheDefaultsOfAdapterAndTraining) {
  ASSERT_OK_AND_ASSIGN(const RunConfig demo,
                       RunConfig::Load(FEDUMM_TEST_DATA "/../../configs/demo.toml"));
  ASSERT_OK_AND_ASSIGN(const std::vector<Setting> table, RunSettings(demo.Text("world.kind")));
  for (const Setting& setting : table) {
    const bool of_adapter_or_training =
        setting.key.starts_with("lora.") || setting.key.starts_with("train.");
    // A task's batch size of 0 stands for the one of its defaults, below.
    if (!of_adapter_or_training || setting.key.ends_with("-batch-size")) continue;
    EXPECT_EQ(SettingText(*demo.values.Find(setting.key)), SettingText(setting.default_value))
        << setting.key;
  }
  EXPECT_EQ(demo.Integer("train.vqa-batch-size"), model::kVqaDefaults.batch_size);
  EXPECT_EQ(demo.Integer("train.draw-batch-size"), model::kDrawDefaults.batch_size);
}

TEST(RunConfig, AValueIsFoundByItsKey) {
  ASSERT_OK_AND_ASSIGN(const RunConfig config, RunConfig::Defaults());
  EXPECT_THAT(SettingValue(config, "federation.clients"), IsOkAndHolds("4"));
  EXPECT_THAT(SettingValue(config, "federation.client"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("'federation.clients'")));
}

TEST(NodeSettings, FilesAreNeitherSentNorTakenFromTheServer) {
  ASSERT_OK_AND_ASSIGN(const RunConfig config,
                       LoadText("[model]\ncheckpoint = \"mine\"\n[data]\nfolder = \"data\"\n"));
  ASSERT_OK_AND_ASSIGN(const ConfigRecord sent, SettingsForNodes(config));
  EXPECT_FALSE(sent.contains("model.checkpoint"));
  EXPECT_FALSE(sent.contains("data.folder"));
  EXPECT_TRUE(sent.contains("lora.r"));

  const ConfigRecord local = LocalSettings(config);
  EXPECT_EQ(local, (ConfigRecord{{"model.checkpoint", "mine"}, {"data.folder", "data"}}));

  ConfigRecord hostile = sent;
  hostile.Set("model.checkpoint", "/etc");
  hostile.Set("data.folder", "../../secrets");
  hostile.Set("my.key-file", "/etc/passwd");
  ASSERT_OK_AND_ASSIGN(const NodeSettings node, SettingsOfNode(hostile, {{"data.folder", "own"}}));
  EXPECT_EQ(node.config.Text("model.checkpoint"), "configs/tiny");
  EXPECT_EQ(node.config.Text("data.folder"), "own");
  EXPECT_FALSE(node.config.values.contains("my.key-file"));
  EXPECT_EQ(node.note, "");
}

TEST(NodeSettings, WhatTheRunLacksIsFilledInAndNamed) {
  ASSERT_OK_AND_ASSIGN(const NodeSettings node, SettingsOfNode({{"lora.r", int64_t{4}},
                                                                {"learning-rate", 1e-2},
                                                                {"num-server-rounds", int64_t{3}},
                                                                {"data.alfa", 0.1}},
                                                               {}));
  EXPECT_EQ(node.config.Integer("lora.r"), 4);
  EXPECT_EQ(node.config.Number("lora.lora-alpha"), 12);
  EXPECT_EQ(node.config.Number("train.learning-rate"), 1e-2);
  EXPECT_EQ(node.config.Integer("num-server-rounds"), 3);
  EXPECT_THAT(node.note, HasSubstr("lora.lora-alpha = 12"));
  EXPECT_THAT(node.note, HasSubstr("train.local-steps = 10"));
  EXPECT_THAT(node.note, HasSubstr("'data.alfa' (did you mean 'data.alpha'?)"));
  EXPECT_THAT(node.note, Not(HasSubstr("train.learning-rate =")));
  EXPECT_THAT(node.note, Not(HasSubstr("federation.")));
  EXPECT_FALSE(node.config.values.contains("federation.rounds")) << "the server's own business";
}

TEST(NodeSettings, AWorldHasTheTasksOfItsTableIfTheRunNamesNone) {
  for (const std::string& kind : model::WorldKinds()) {
    ASSERT_OK_AND_ASSIGN(const NodeSettings node, SettingsOfNode({{"world.kind", kind}}, {}));
    ASSERT_OK_AND_ASSIGN(const std::vector<Setting> table, model::WorldSettings(kind));
    for (const Setting& setting : table) {
      const ConfigValue* value = node.config.values.Find(setting.key);
      const bool server_only = setting.key.starts_with("evaluate.");
      ASSERT_EQ(value == nullptr, server_only) << setting.key;
      if (server_only) continue;
      EXPECT_EQ(*value, setting.default_value) << setting.key;
    }
    EXPECT_FALSE(node.config.values.contains("train.local-steps")) << "the client's own";
  }
}

TEST(NodeSettings, AnEvaluationSettingOfTheServerHasNoEffectOnANode) {
  ASSERT_OK_AND_ASSIGN(const NodeSettings node,
                       SettingsOfNode({{"evaluate.drawings-per-prompt", int64_t{1} << 60}}, {}));
  EXPECT_FALSE(node.config.values.contains("evaluate.drawings-per-prompt"));
}

TEST(NodeSettings, AHostileRecordIsRefused) {
  EXPECT_THAT(SettingsOfNode({{"train.local-steps", int64_t{-1}}}, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("train.local-steps")));
  EXPECT_THAT(SettingsOfNode({{"lora.r", "many"}}, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("lora.r")));
  EXPECT_THAT(SettingsOfNode({{"world.kind", "moon"}}, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("moon")));
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
