#include "fedumm/model/peft_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "base/file.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::HasSubstr;
using Json = nlohmann::json;

std::string Golden(const std::string& folder) {
  const absl::StatusOr<std::string> text =
      ReadFile(std::string(FEDUMM_TEST_DATA "/adapter/") + folder + "/adapter_config.json");
  EXPECT_TRUE(text.ok()) << text.status();
  return text.value_or("");
}

// The golden configuration "vanilla" with one field set to the JSON text `value`.
std::string With(const std::string& field, const std::string& value) {
  Json config = Json::parse(Golden("vanilla"));
  config[field] = Json::parse(value);
  return config.dump();
}

TEST(PeftConfigTest, EveryFieldIsWrittenAsPeftWritesIt) {
  for (const std::string folder :
       {"vanilla", "no_alpha_match", "rslora", "all_linear_like", "regex", "layers_to_transform",
        "exclude", "rank_pattern", "rank_pattern_rs", "dropout", "gaussian"}) {
    SCOPED_TRACE(folder);
    ASSERT_OK_AND_ASSIGN(const LoraConfig config, ParsePeftConfig(Golden(folder)));
    Json expected = Json::parse(Golden(folder));
    expected["auto_mapping"] = nullptr;  // names a Python class
    EXPECT_EQ(FormatPeftConfig(config), expected.dump(2));
  }
}

TEST(PeftConfigTest, VariantsThatAreNotComputedAreRefusedByTheirField) {
  for (const auto& [folder, field] : std::vector<std::pair<std::string, std::string>>{
           {"bias_all", "bias"},
           {"bias_lora_only", "bias"},
           {"dora", "use_dora"},
           {"lora_bias", "lora_bias"},
           {"modules_to_save", "modules_to_save"},
           {"target_parameters", "target_parameters"},
           {"trainable_tokens", "trainable_token_indices"}}) {
    EXPECT_THAT(ParsePeftConfig(Golden(folder)),
                StatusIs(absl::StatusCode::kUnimplemented, HasSubstr(field)));
  }
  for (const auto& [field, value] :
       std::vector<std::pair<std::string, std::string>>{{"init_lora_weights", "\"pissa\""},
                                                        {"layer_replication", "[[0, 2]]"},
                                                        {"loftq_config", "{\"loftq_bits\": 4}"},
                                                        {"use_qalora", "true"},
                                                        {"alora_invocation_tokens", "[1]"},
                                                        {"fan_in_fan_out", "true"},
                                                        {"peft_type", "\"IA3\""},
                                                        {"some_variant_of_tomorrow", "1"}}) {
    EXPECT_THAT(ParsePeftConfig(With(field, value)),
                StatusIs(absl::StatusCode::kUnimplemented, HasSubstr(field)));
  }
}

TEST(PeftConfigTest, AnInitThatChangesTheBaseWeightsIsRefusedWithTheReason) {
  for (const std::string init :
       {"pissa", "pissa_niter_4", "olora", "OLoRA", "corda", "loftq", "lora_ga"}) {
    EXPECT_THAT(ParsePeftConfig(With("init_lora_weights", "\"" + init + "\"")),
                StatusIs(absl::StatusCode::kUnimplemented,
                         AllOf(HasSubstr(init), HasSubstr("changes the base weights"))));
  }
  EXPECT_THAT(ParsePeftConfig(With("init_lora_weights", "\"mica\"")),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("lora_A alone")));
  EXPECT_THAT(ParsePeftConfig(With("init_lora_weights", "\"of tomorrow\"")),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("of tomorrow")));
}

TEST(PeftConfigTest, AnInitThatLeavesTheBaseWeightsAloneIsReadAndWritten) {
  for (const auto& [text, init] :
       std::vector<std::pair<std::string, LoraInit>>{{"true", LoraInit::kDefault},
                                                     {"false", LoraInit::kRandom},
                                                     {"null", LoraInit::kRandom},
                                                     {"\"Gaussian\"", LoraInit::kGaussian},
                                                     {"\"orthogonal\"", LoraInit::kOrthogonal},
                                                     {"\"eva\"", LoraInit::kEva}}) {
    ASSERT_OK_AND_ASSIGN(const LoraConfig config, ParsePeftConfig(With("init_lora_weights", text)));
    EXPECT_EQ(config.init_lora_weights, init);
    ASSERT_OK_AND_ASSIGN(const LoraConfig again, ParsePeftConfig(FormatPeftConfig(config)));
    EXPECT_EQ(again.init_lora_weights, init);
  }
  EXPECT_THAT(ParsePeftConfig(With("eva_config", "{\"rho\": 2.0}")), IsOk());
}

TEST(PeftConfigTest, UnknownFieldsThatAreOffAreIgnored) {
  for (const std::string value : {"null", "false", "[]", "{}", "\"\""}) {
    EXPECT_THAT(ParsePeftConfig(With("some_variant_of_tomorrow", value)), IsOk()) << value;
  }
}

TEST(PeftConfigTest, ValuesOutOfRangeAreRefusedByTheirField) {
  for (const auto& [field, value] :
       std::vector<std::pair<std::string, std::string>>{{"r", "0"},
                                                        {"r", "4.5"},
                                                        {"r", "1e9"},
                                                        {"lora_alpha", "\"8\""},
                                                        {"lora_dropout", "1.0"},
                                                        {"lora_dropout", "-0.1"},
                                                        {"target_modules", "null"},
                                                        {"target_modules", "[1]"},
                                                        {"rank_pattern", "{\"q_proj\": 0}"},
                                                        {"alpha_pattern", "[]"},
                                                        {"layers_to_transform", "\"1\""},
                                                        {"use_rslora", "1"}}) {
    EXPECT_THAT(ParsePeftConfig(With(field, value)),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(field)))
        << value;
  }
}

TEST(PeftConfigTest, TextThatIsNoConfigurationIsRefused) {
  for (const std::string text : {"", "{", "[]", "{}", "{\"r\": 4}", "\xff"}) {
    EXPECT_THAT(ParsePeftConfig(text), StatusIs(absl::StatusCode::kInvalidArgument)) << text;
  }
}

TEST(PeftConfigTest, DeepNestingIsNoDanger) {
  const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
  for (const std::string field : {"r", "target_modules", "layers_to_transform", "bias",
                                  "init_lora_weights", "rank_pattern", "something_else"}) {
    EXPECT_FALSE(
        ParsePeftConfig("{\"peft_type\": \"LORA\", \"" + field + "\": " + deep + "}").ok());
  }
}

LoraConfig Targeting(std::vector<std::string> names) {
  LoraConfig config;
  config.r = 4;
  config.lora_alpha = 8;
  config.target_modules.names = std::move(names);
  return config;
}

bool IsTarget(const LoraConfig& config, const std::string& path) {
  const absl::StatusOr<std::optional<LoraModule>> module = SelectModule(config, path);
  EXPECT_THAT(module, IsOk());
  return module.ok() && module->has_value();
}

TEST(SelectModuleTest, NamesMatchWholeComponentsAtTheEnd) {
  const LoraConfig config = Targeting({"q_proj", "mlp.up_proj"});
  EXPECT_TRUE(IsTarget(config, "q_proj"));
  EXPECT_TRUE(IsTarget(config, "model.layers.0.self_attn.q_proj"));
  EXPECT_TRUE(IsTarget(config, "model.layers.0.mlp.up_proj"));
  EXPECT_FALSE(IsTarget(config, "model.layers.0.self_attn.xq_proj"));
  EXPECT_FALSE(IsTarget(config, "model.layers.0.q_proj.inner"));
  EXPECT_FALSE(IsTarget(config, "model.layers.0.other.up_proj"));
}

TEST(SelectModuleTest, PatternsMatchWholePaths) {
  LoraConfig config;
  config.target_modules.pattern = R"((?!visual).*layers\.\d+\.(q|k)_proj)";
  EXPECT_TRUE(IsTarget(config, "model.layers.10.q_proj"));
  EXPECT_FALSE(IsTarget(config, "visual.layers.10.q_proj"));
  EXPECT_FALSE(IsTarget(config, "model.layers.10.q_proj.x"));
}

TEST(SelectModuleTest, AllLinearLeavesTheOutputHeadOut) {
  LoraConfig config;
  config.target_modules.pattern = "all-linear";
  EXPECT_TRUE(IsTarget(config, "visual.blocks.0.attn.qkv"));
  EXPECT_FALSE(IsTarget(config, "lm_head"));
}

TEST(SelectModuleTest, LayersAreCountedByTheFirstNumber) {
  LoraConfig config = Targeting({"q_proj"});
  config.layers_to_transform = {1};
  EXPECT_TRUE(IsTarget(config, "model.layers.1.experts.0.q_proj"));
  EXPECT_FALSE(IsTarget(config, "model.layers.0.experts.1.q_proj"));
  EXPECT_FALSE(IsTarget(config, "model.q_proj"));
  config.layers_pattern = {"experts"};
  EXPECT_TRUE(IsTarget(config, "model.layers.0.experts.1.q_proj"));
  EXPECT_FALSE(IsTarget(config, "model.layers.1.experts.0.q_proj"));
}

TEST(SelectModuleTest, AModuleThatIsNamedExactlyPassesLayersToTransform) {
  LoraConfig config = Targeting({"model.layers.1.q_proj", "v_proj"});
  config.layers_to_transform = {0};
  EXPECT_TRUE(IsTarget(config, "model.layers.1.q_proj"));
  EXPECT_FALSE(IsTarget(config, "other.model.layers.1.q_proj"));
  EXPECT_FALSE(IsTarget(config, "model.layers.1.v_proj"));
  EXPECT_TRUE(IsTarget(config, "model.layers.0.v_proj"));
}

class RespellConfigTest : public ::testing::Test {
 protected:
  absl::StatusOr<LoraConfig> ToNew(const LoraConfig& config) {
    return RespellConfig(config, paths_, ModuleLayout::kFile, ModuleLayout::kTransformers5);
  }
  // That `respelled` says of each module under its new name what `config` says under its old one.
  void ExpectSameModules(const LoraConfig& config, const LoraConfig& respelled) {
    for (const std::string& path : paths_) {
      EXPECT_EQ(SelectModule(respelled, ToLayout(path, ModuleLayout::kTransformers5)).value(),
                SelectModule(config, path).value())
          << path;
    }
  }

  const std::vector<std::string> paths_ = {
      "lm_head",
      "model.dit.model.layers.0.attn1.to_q",
      "model.layers.0.mlp.gate_proj",
      "model.layers.0.self_attn.q_proj",
      "model.layers.1.mlp.gate_proj",
      "model.layers.1.self_attn.q_proj",
      "visual.blocks.0.mlp.gate_proj",
  };
};

TEST_F(RespellConfigTest, NamesThatMeanTheSameInBothLayoutsStay) {
  LoraConfig config = Targeting({"q_proj", "to_q"});
  config.layers_to_transform = {1, 0};
  config.rank_pattern = {{"layers.1.self_attn.q_proj", 2}};
  ASSERT_OK_AND_ASSIGN(const LoraConfig respelled, ToNew(config));
  EXPECT_EQ(FormatPeftConfig(respelled), FormatPeftConfig(config));
}

TEST_F(RespellConfigTest, APatternBecomesThePathsThatItMatches) {
  LoraConfig config;
  config.lora_alpha = 16;
  config.target_modules.pattern = "model\\.layers\\..*";
  config.exclude_modules.names = {"model.layers.0.mlp.gate_proj"};
  config.rank_pattern = {{"model.layers.1.*", 2}};
  config.alpha_pattern = {{"model.layers.0.self_attn.q_proj", 5}};
  config.use_rslora = true;
  ASSERT_OK_AND_ASSIGN(const LoraConfig respelled, ToNew(config));
  EXPECT_THAT(respelled.target_modules.names,
              ::testing::ElementsAre("model.language_model.layers.0.self_attn.q_proj",
                                     "model.language_model.layers.1.mlp.gate_proj",
                                     "model.language_model.layers.1.self_attn.q_proj"));
  EXPECT_FALSE(respelled.target_modules.pattern.has_value());
  EXPECT_THAT(ValidateLoraConfig(respelled), IsOk());
  ExpectSameModules(config, respelled);
}

TEST_F(RespellConfigTest, APathThatPassesLayersToTransformIsStillSelected) {
  LoraConfig config = Targeting({"gate_proj", "model.layers.0.self_attn.q_proj"});
  config.layers_to_transform = {1};
  ASSERT_OK_AND_ASSIGN(const LoraConfig respelled, ToNew(config));
  ExpectSameModules(config, respelled);
  ASSERT_OK_AND_ASSIGN(
      const LoraConfig back,
      RespellConfig(respelled, paths_, ModuleLayout::kTransformers5, ModuleLayout::kFile));
  EXPECT_THAT(back.target_modules.names, ::testing::ElementsAre("model.layers.0.self_attn.q_proj",
                                                                "model.layers.1.mlp.gate_proj"));
}

TEST(UnmatchedTargetsTest, AreTheNamesOfNoModule) {
  const LoraConfig config = Targeting({"q_proj", "qproj", "model.layers.0.v_proj", "layers"});
  EXPECT_THAT(UnmatchedTargets(config, {"model.layers.0.q_proj", "model.layers.0.v_proj"}),
              ::testing::ElementsAre("qproj", "layers"));
}

TEST(PeftConfigTest, VariantsThatAreLeftOutOnPurposeAreRefusedWithARemedy) {
  for (const auto& [field, value] : std::vector<std::pair<std::string, std::string>>{
           {"use_dora", "true"},
           {"modules_to_save", "[\"lm_head\"]"},
           {"modules_to_save", "[\"embed_tokens\"]"}}) {
    EXPECT_THAT(ParsePeftConfig(With(field, value)),
                StatusIs(absl::StatusCode::kUnimplemented,
                         AllOf(HasSubstr(field), HasSubstr("merge_and_unload"))));
  }
}

TEST(SelectModuleTest, TheFirstPatternThatMatchesDecidesRankAndScale) {
  LoraConfig config = Targeting({"q_proj", "v_proj"});
  config.rank_pattern = {{"layers.0.self_attn.q_proj", 2}, {"q_proj", 8}};
  config.alpha_pattern = {{"v_proj", 5}};
  const auto module = [&](const std::string& path) { return SelectModule(config, path)->value(); };
  EXPECT_EQ(module("model.layers.0.self_attn.q_proj").r, 2);
  EXPECT_EQ(module("model.layers.0.self_attn.q_proj").scale, 4);
  EXPECT_EQ(module("model.layers.1.self_attn.q_proj").r, 8);
  EXPECT_EQ(module("model.layers.1.self_attn.v_proj").scale, 1.25);
  config.use_rslora = true;
  EXPECT_EQ(module("model.layers.1.self_attn.v_proj").scale, 2.5);
}

TEST(SelectModuleTest, PatternsThatCannotBeMatchedAreErrors) {
  LoraConfig config;
  config.target_modules.pattern = "(";
  EXPECT_THAT(SelectModule(config, "a"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("bad pattern")));
  config.target_modules.pattern = "(a+)+";  // exponential in the number of letters
  EXPECT_THAT(SelectModule(config, std::string(200, 'a') + "!"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("cannot be matched")));
}

TEST(ToLayoutTest, DecoderAndTowerMoveInNewTransformers) {
  constexpr auto kNew = ModuleLayout::kTransformers5;
  EXPECT_EQ(ToLayout("model.layers.3.mlp.up_proj", kNew),
            "model.language_model.layers.3.mlp.up_proj");
  EXPECT_EQ(ToLayout("visual.blocks.0.attn.qkv", kNew), "model.visual.blocks.0.attn.qkv");
  EXPECT_EQ(ToLayout("model.dit.model.layers.0.attn1.to_q", kNew),
            "model.dit.model.layers.0.attn1.to_q");
  EXPECT_EQ(ToLayout("visual.blocks.0.attn.qkv", ModuleLayout::kFile), "visual.blocks.0.attn.qkv");
}

}  // namespace
}  // namespace fedumm::model
