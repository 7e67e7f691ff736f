// tests/data/blip3o/eva*.safetensors: timm's EVA with the names of a training checkpoint.
#include "fedumm/model/eva.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fedumm/model/checkpoint.h"
#include "tests/model/backbone/golden.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

const std::string kEncoder = FEDUMM_TEST_DATA "/blip3o/eva.safetensors";
const EvaOptions kTiny = {.num_heads = 2, .pooling = 2};

Image ImageOf(const at::Tensor& pixels) {
  const at::Tensor bytes = pixels.contiguous();
  const uint8_t* const begin = bytes.const_data_ptr<uint8_t>();
  return {
      .width = bytes.size(1), .height = bytes.size(0), .pixels = {begin, begin + bytes.numel()}};
}

TEST(EvaTest, EncodesAsTheReference) {
  const StateDict want = LoadGolden("blip3o/eva_expected.safetensors");
  ASSERT_OK_AND_ASSIGN(const auto encoder, EvaEncoder::Load(kEncoder, kTiny));
  EXPECT_EQ(encoder->image_size(), 56);
  EXPECT_EQ(encoder->width(), 28);
  EXPECT_EQ(encoder->grid(), 2);
  std::vector<at::Tensor> pixels;
  for (const char* i : {"0", "1", "2"}) {
    const std::string picture = std::string("picture.") + i;
    ASSERT_OK_AND_ASSIGN(pixels.emplace_back(), EvaPixels(ImageOf(want.at(picture)), 56));
    EXPECT_LT(MaxDifference(pixels.back(), want.at(std::string("pixels.") + i)), 1e-6) << i;
  }
  EvaEncoder::Trace trace;
  const at::Tensor latents = encoder->Encode(at::stack(pixels), &trace);
  EXPECT_LT(RelativeDifference(trace.embedded, want.at("embedded")), 1e-4);
  ASSERT_EQ(trace.blocks.size(), 3);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_LT(RelativeDifference(trace.blocks[i], want.at("block." + std::to_string(i))), 1e-4);
  }
  EXPECT_LT(RelativeDifference(trace.tokens, want.at("tokens")), 1e-4);
  EXPECT_LT(RelativeDifference(latents, want.at("latents")), 1e-4);
}

TEST(EvaTest, HalfTheBitsComeNear) {
  const StateDict want = LoadGolden("blip3o/eva_expected.safetensors");
  EvaOptions options = kTiny;
  options.dtype = at::kBFloat16;
  ASSERT_OK_AND_ASSIGN(const auto encoder, EvaEncoder::Load(kEncoder, options));
  const at::Tensor latents = encoder->Encode(at::stack({want.at("pixels.0")}));
  EXPECT_EQ(latents.scalar_type(), at::kBFloat16);
  EXPECT_LT(RelativeDifference(latents.to(at::kFloat), want.at("latents").slice(0, 0, 1)), 0.05);
}

TEST(EvaTest, TheIdTellsEncodersApartByEachWeight) {
  ASSERT_OK_AND_ASSIGN(const auto encoder, EvaEncoder::Load(kEncoder, kTiny));
  const std::string copy = ::testing::TempDir() + "/eva_copy.safetensors";
  StateDict state = LoadStateDict(kEncoder).value();
  ASSERT_TRUE(SaveStateDict(state, copy).ok());
  EXPECT_EQ(EvaEncoder::Load(copy, kTiny).value()->id(), encoder->id());
  for (const char* name : {"blocks.1.mlp.fc1.weight", "blocks.2.norm2.bias"}) {
    at::Tensor& weight = state.at(std::string("model.gen_vision_tower.vision_tower.model.") + name);
    const at::Tensor before = weight;
    weight = weight + 1;
    ASSERT_TRUE(SaveStateDict(state, copy).ok());
    EXPECT_NE(EvaEncoder::Load(copy, kTiny).value()->id(), encoder->id()) << name;
    weight = before;
  }
}

TEST(EvaTest, WhatIsNoEncoderIsNamed) {
  EXPECT_THAT(EvaEncoder::Load("pytorch_model.bin"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("pickle")));
  EXPECT_THAT(EvaEncoder::Load(FEDUMM_TEST_DATA "/blip3o/sampling_expected.safetensors"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("patch_embed.proj.weight")));
  EXPECT_THAT(EvaEncoder::Load(kEncoder),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("width of 28")));
  EXPECT_THAT(EvaEncoder::Load(kEncoder, {.num_heads = 2, .pooling = 3}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("divisible by 3")));
  const std::string other = ::testing::TempDir() + "/other.safetensors";
  StateDict state = LoadStateDict(kEncoder).value();
  const std::string prefix = "model.gen_vision_tower.vision_tower.model.";
  state[prefix + "head.weight"] = state.at(prefix + "cls_token");
  state.erase(prefix + "blocks.1.norm1.bias");
  ASSERT_TRUE(SaveStateDict(state, other).ok());
  EXPECT_THAT(EvaEncoder::Load(other, kTiny),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("blocks.1.norm1.bias is missing"),
                             HasSubstr("head.weight is unexpected"))));
}

}  // namespace
}  // namespace fedumm::model
