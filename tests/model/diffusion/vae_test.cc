#include "model/diffusion/vae.h"

#include <ATen/TensorOperators.h>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "tests/model/backbone/golden.h"

namespace fedumm::model {
namespace {

const char kVaeFolder[] = FEDUMM_TEST_DATA "/blip3o/release/diffusion-decoder/vae";
const char kVaeConfig[] = "blip3o/release/diffusion-decoder/vae/config.json";

const at::Tensor& ExpectedVae(const std::string& name) {
  static const StateDict golden = LoadGolden("blip3o/release_expected.safetensors");
  return golden.at("vae." + name);
}

VaeDecoder LoadVae(at::ScalarType dtype) {
  absl::StatusOr<VaeConfig> config = VaeConfig::FromJson(ReadTestFile(kVaeConfig), "config.json");
  EXPECT_TRUE(config.ok()) << config.status();
  absl::StatusOr<PartWeights> weights = PartWeights::Open(kVaeFolder, dtype, at::kCPU);
  EXPECT_TRUE(weights.ok()) << weights.status();
  absl::StatusOr<VaeDecoder> vae = VaeDecoder::Create(*config, *std::move(weights));
  EXPECT_TRUE(vae.ok()) << vae.status();
  return *std::move(vae);
}

TEST(VaeDecoderTest, EveryBlockGivesWhatDiffusersGives) {
  BlockTrace trace;
  const at::Tensor image = LoadVae(at::kFloat).Decode(ExpectedVae("latents"), &trace);
  EXPECT_LT(RelativeDifference(image, ExpectedVae("image")), 1e-4);
  ASSERT_EQ(trace.size(), 6u);
  for (const auto& [name, value] : trace) {
    EXPECT_LT(RelativeDifference(value, ExpectedVae(name)), 1e-4) << name;
  }
}

TEST(VaeDecoderTest, Bfloat16ComesClose) {
  const at::Tensor image = LoadVae(at::kBFloat16).Decode(ExpectedVae("latents"));
  EXPECT_EQ(image.scalar_type(), at::kBFloat16);
  EXPECT_LT(RelativeDifference(image, ExpectedVae("image")), 0.05);
}

TEST(VaeDecoderTest, TilesComeCloseToTheWholePicture) {
  const VaeDecoder vae = LoadVae(at::kFloat);
  const at::Tensor latents = RandomTensor({1, 4, 40, 28}, 3);
  const at::Tensor whole = vae.Decode(latents);
  // One tile is the whole.
  EXPECT_EQ(MaxDifference(vae.DecodeTiled(latents, 40), whole), 0);
  // Tiles begin at 0, 18 and 36 latents; where none blends, the picture is that of its tile.
  const at::Tensor tiled = vae.DecodeTiled(latents, 24);
  ASSERT_EQ(tiled.sizes(), whole.sizes());
  const auto part = [](const at::Tensor& x, int64_t top, int64_t bottom) {
    return x.slice(2, top, bottom).slice(3, 0, 144);
  };
  const at::Tensor first = vae.Decode(latents.slice(2, 0, 24).slice(3, 0, 24));
  const at::Tensor second = vae.Decode(latents.slice(2, 18, 40).slice(3, 0, 24));
  EXPECT_EQ(MaxDifference(part(tiled, 0, 144), part(first, 0, 144)), 0);
  EXPECT_EQ(MaxDifference(part(tiled, 192, 288), part(second, 48, 144)), 0);
  // Halfway through the overlap both count the same.
  EXPECT_LT(
      MaxDifference(part(tiled, 168, 169), (part(first, 168, 169) + part(second, 24, 25)) / 2),
      1e-5);
  // Each tile is normalised by itself, which these random weights show more than trained ones do:
  // 14 % of the mean level was measured.
  const double mean =
      (tiled - whole).abs().mean().item<double>() / whole.abs().mean().item<double>();
  EXPECT_LT(mean, 0.2);
  EXPECT_GT(mean, 0);
}

TEST(VaeDecoderTest, ConfigsThatAreNotSdxlAreRefusedByField) {
  const std::string json = ReadTestFile(kVaeConfig);
  const struct {
    const char* from;
    const char* to;
    const char* named;
  } kCases[] = {
      {"\"shift_factor\": null", "\"shift_factor\": 0.1", "shift_factor is 0.1"},
      {"\"latents_mean\": null", "\"latents_mean\": [0, 0, 0, 0]", "latents_mean"},
      {"\"UpDecoderBlock2D\"", "\"AttnUpDecoderBlock2D\"", "up_block_types"},
      {"\"mid_block_add_attention\": true", "\"mid_block_add_attention\": false",
       "mid_block_add_attention"},
      {"\"scaling_factor\": 0.13025", "\"scaling_factor\": 0", "scaling_factor is 0"},
  };
  for (const auto& test : kCases) {
    const std::string changed = absl::StrReplaceAll(json, {{test.from, test.to}});
    ASSERT_NE(changed, json) << test.from;
    const absl::StatusOr<VaeConfig> config = VaeConfig::FromJson(changed, "vae/config.json");
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << test.named;
    EXPECT_TRUE(absl::StrContains(config.status().message(), test.named)) << config.status();
  }
}

}  // namespace
}  // namespace fedumm::model
