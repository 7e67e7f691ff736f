#include "model/diffusion/unet.h"

#include <ATen/ops/full.h>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "tests/model/backbone/golden.h"

namespace fedumm::model {
namespace {

const char kFolder[] = FEDUMM_TEST_DATA "/blip3o/release/diffusion-decoder/unet";
const char kConfig[] = "blip3o/release/diffusion-decoder/unet/config.json";

const at::Tensor& ExpectedUNet(const std::string& name) {
  static const StateDict golden = LoadGolden("blip3o/release_expected.safetensors");
  return golden.at("unet." + name);
}

UNet LoadUNet(at::ScalarType dtype) {
  absl::StatusOr<UNetConfig> config = UNetConfig::FromJson(ReadTestFile(kConfig), "config.json");
  EXPECT_TRUE(config.ok()) << config.status();
  absl::StatusOr<PartWeights> weights = PartWeights::Open(kFolder, dtype, at::kCPU);
  EXPECT_TRUE(weights.ok()) << weights.status();
  absl::StatusOr<UNet> unet = UNet::Create(*config, *std::move(weights));
  EXPECT_TRUE(unet.ok()) << unet.status();
  return *std::move(unet);
}

at::Tensor RunGoldenInput(const UNet& unet, double t, BlockTrace* trace = nullptr) {
  return unet.Run(ExpectedUNet("x"), at::full({2}, t, at::kFloat), ExpectedUNet("z"),
                  ExpectedUNet("text_embeds"), ExpectedUNet("time_ids"), trace);
}

TEST(UNetTest, EveryBlockGivesWhatDiffusersGives) {
  const UNet unet = LoadUNet(at::kFloat);
  BlockTrace trace;
  const at::Tensor output = RunGoldenInput(unet, 741, &trace);
  EXPECT_LT(RelativeDifference(output, ExpectedUNet("output")), 1e-4);
  // The golden's blocks were noted at the last call, which was at time 1.
  trace.clear();
  const at::Tensor other = RunGoldenInput(unet, 1, &trace);
  EXPECT_LT(RelativeDifference(other, ExpectedUNet("output_other_time")), 1e-4);
  EXPECT_GT(RelativeDifference(output, other), 1e-2);
  for (const char* const name :
       {"conv_in", "time_embedding", "add_embedding", "down_blocks.0", "down_blocks.0.resnets.0",
        "down_blocks.1", "down_blocks.1.resnets.0", "down_blocks.1.attentions.0", "down_blocks.2",
        "down_blocks.2.resnets.0", "down_blocks.2.attentions.0", "mid_block", "up_blocks.0",
        "up_blocks.1", "up_blocks.2"}) {
    ASSERT_TRUE(trace.contains(name)) << name;
    EXPECT_LT(RelativeDifference(trace[name], ExpectedUNet(name)), 1e-4) << name;
  }
}

TEST(UNetTest, HalfPrecisionComesClose) {
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
    const at::Tensor output = RunGoldenInput(LoadUNet(dtype), 741);
    EXPECT_EQ(output.scalar_type(), dtype);
    EXPECT_LT(RelativeDifference(output, ExpectedUNet("output")), dtype == at::kHalf ? 0.01 : 0.05);
  }
}

TEST(UNetTest, ConfigsThatAreNotSdxlAreRefusedByField) {
  const std::string json = ReadTestFile(kConfig);
  const struct {
    const char* from;
    const char* to;
    const char* named;
  } kCases[] = {
      {"\"text_time\"", "\"image\"", "addition_embed_type is \"image\""},
      {"\"use_linear_projection\": true", "\"use_linear_projection\": false",
       "use_linear_projection"},
      {"\"silu\"", "\"gelu\"", "act_fn"},
      {"\"num_attention_heads\": null", "\"num_attention_heads\": 8", "num_attention_heads"},
      {"\"dropout\": 0.0", "\"frozen_noise\": 0.5", "frozen_noise is not a field"},
      {"\"norm_num_groups\": 8", "\"norm_num_groups\": 5", "norm_num_groups"},
      {"\"norm_num_groups\": 8", "\"norm_num_groups\": 0", "norm_num_groups"},
      {"\"UpBlock2D\"", "\"AttnUpBlock2D\"", "up_block_types"},
      {"\"cross_attention_dim\": 24", "\"cross_attention_dim\": 2400000000000000",
       "cross_attention_dim"},
      {"\"layers_per_block\": 2", "\"layers_per_block\": 1000000", "layers_per_block"},
  };
  for (const auto& test : kCases) {
    const std::string changed = absl::StrReplaceAll(json, {{test.from, test.to}});
    ASSERT_NE(changed, json) << test.from;
    const absl::StatusOr<UNetConfig> config = UNetConfig::FromJson(changed, "unet/config.json");
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << test.named;
    EXPECT_TRUE(absl::StrContains(config.status().message(), test.named)) << config.status();
    EXPECT_TRUE(absl::StrContains(config.status().message(), "unet/config.json"));
  }
  EXPECT_FALSE(UNetConfig::FromJson("[1]", "unet/config.json").ok());
}

TEST(UNetTest, WeightsThatDoNotFitTheConfigAreNamed) {
  const std::string json = absl::StrReplaceAll(
      ReadTestFile(kConfig), {{"\"layers_per_block\": 2", "\"layers_per_block\": 1"}});
  absl::StatusOr<UNetConfig> config = UNetConfig::FromJson(json, "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  absl::StatusOr<PartWeights> weights = PartWeights::Open(kFolder, at::kFloat, at::kCPU);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const absl::StatusOr<UNet> unet = UNet::Create(*config, *std::move(weights));
  EXPECT_EQ(unet.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(unet.status().message(), "unexpected: down_blocks.0.resnets.1"))
      << unet.status();
  EXPECT_TRUE(absl::StrContains(unet.status().message(), "more")) << unet.status();
  EXPECT_EQ(PartWeights::Open(FEDUMM_TEST_DATA "/geneval", at::kFloat, at::kCPU).status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace fedumm::model
