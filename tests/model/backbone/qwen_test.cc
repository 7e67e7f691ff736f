// The understanding half against Hugging Face's Qwen2.5-VL.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/square.h>
#include <ATen/ops/sum.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fedumm/model/backbone.h"
#include "model/backbone/decoder.h"
#include "model/backbone/module_visitor.h"
#include "model/backbone/vision.h"
#include "tests/model/backbone/golden.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using fedumm::testing::StatusIs;
using ::testing::HasSubstr;

constexpr double kLogits = 1e-4;
constexpr double kHidden = 1e-5;

class QwenTest : public ::testing::Test {
 protected:
  void SetUp() override {
    state_ = LoadGolden("qwen25vl/model");
    inputs_ = LoadGolden("qwen25vl/inputs.safetensors");
    expected_ = LoadGolden("qwen25vl/expected.safetensors");
    ASSERT_OK_AND_ASSIGN(config_,
                         BackboneConfig::FromJson(ReadTestFile("qwen25vl/model/config.json")));
    ASSERT_OK_AND_ASSIGN(model_, UnifiedModel::Create(config_, state_));
  }
  const at::Tensor& Input(const std::string& name) { return inputs_.at("input." + name); }
  const at::Tensor& Expected(const std::string& name) { return expected_.at(name); }
  at::Tensor Loss(const at::Tensor& logits) {
    const int64_t last = logits.size(1) - 1;
    return at::cross_entropy_loss(logits.slice(1, 0, last).flatten(0, 1),
                                  Input("labels").slice(1, 1).flatten());
  }
  // Values at padding are nobody's business: the reference lets it look at everything.
  at::Tensor Unpadded(const at::Tensor& x) {
    return x.flatten(0, 1).index({Input("attention_mask").flatten().to(at::kBool)});
  }
  at::Tensor Embeds() {
    absl::StatusOr<at::Tensor> images = model_->EncodeImages(Input("pixel_values"), grids_);
    EXPECT_THAT(images, fedumm::testing::IsOk());
    absl::StatusOr<at::Tensor> embeds = model_->EmbedWithImages(Input("input_ids"), *images);
    EXPECT_THAT(embeds, fedumm::testing::IsOk());
    return *embeds;
  }

  const std::vector<ImageGrid> grids_ = {{1, 4, 6}, {1, 8, 4}};
  StateDict state_;
  StateDict inputs_;
  StateDict expected_;
  BackboneConfig config_;
  std::unique_ptr<UnifiedModel> model_;
};

TEST_F(QwenTest, TheVisionTowerMatchesLayerByLayer) {
  VisionTower tower(config_.vision);
  StateBinder binder(state_);
  tower.Visit(binder);
  std::vector<at::Tensor> trace;
  ASSERT_OK_AND_ASSIGN(const at::Tensor merged,
                       tower.Encode(Input("pixel_values"), grids_, &trace));
  ASSERT_EQ(trace.size(), 3u);
  for (size_t i = 0; i < trace.size(); ++i) {
    EXPECT_LT(RelativeDifference(trace[i], Expected("visual.hidden_states." + std::to_string(i))),
              kHidden);
  }
  EXPECT_LT(RelativeDifference(trace[2], Expected("visual.last_hidden_window_order")), kHidden);
  EXPECT_LT(RelativeDifference(merged, Expected("visual.merged")), kHidden);
}

TEST_F(QwenTest, TheVisionTowersGradientMatches) {
  const at::Tensor pixels = Input("pixel_values").clone().requires_grad_(true);
  ASSERT_OK_AND_ASSIGN(const at::Tensor merged, model_->EncodeImages(pixels, grids_));
  EXPECT_LT(RelativeDifference(GradientOf(at::sum(at::square(merged)), pixels),
                               Expected("visual.grad_pixels_of_sum_sq")),
            1e-5);
}

TEST_F(QwenTest, PositionsMatchExactly) {
  ASSERT_OK_AND_ASSIGN(const UnifiedModel::Positions positions,
                       model_->PositionsOf(Input("input_ids"), Input("attention_mask"), grids_));
  EXPECT_TRUE(positions.ids.equal(Expected("position_ids")));
  EXPECT_TRUE(positions.deltas.equal(Expected("rope_deltas").squeeze(1)));
}

TEST_F(QwenTest, HiddenStatesLogitsAndLossMatch) {
  Decoder decoder(config_.text);
  StateBinder binder(state_);
  decoder.Visit(binder);
  std::vector<at::Tensor> trace;
  trace.push_back(
      decoder.Run(Embeds(), Expected("position_ids"), Input("attention_mask"), nullptr, &trace));
  ASSERT_EQ(trace.size(), 3u);
  for (size_t i = 0; i < trace.size(); ++i) {
    EXPECT_LT(
        MaxDifference(Unpadded(trace[i]), Unpadded(Expected("hidden_states." + std::to_string(i)))),
        kHidden)
        << i;
  }
  const at::Tensor logits = decoder.Logits(trace.back());
  EXPECT_LT(MaxDifference(Unpadded(logits), Unpadded(Expected("logits"))), kLogits);
  EXPECT_LT(MaxDifference(Loss(logits).reshape(1), Expected("loss")), 1e-5);
}

TEST_F(QwenTest, PlainPositionsMatch) {
  const at::Tensor logits = model_->Logits(
      model_->Decode(Embeds(), Expected("position_ids_1d"), Input("attention_mask")));
  EXPECT_LT(MaxDifference(Unpadded(logits), Unpadded(Expected("logits_1d_positions"))), kLogits);
  EXPECT_LT(MaxDifference(Loss(logits).reshape(1), Expected("loss_1d_positions")), 1e-5);
  EXPECT_GT(MaxDifference(Unpadded(logits), Unpadded(Expected("logits"))), 0.1);
}

TEST_F(QwenTest, TextAloneMatchesWithAndWithoutAMask) {
  const at::Tensor& ids = Expected("text_only.input_ids");
  ASSERT_OK_AND_ASSIGN(const UnifiedModel::Positions positions, model_->PositionsOf(ids, {}, {}));
  const at::Tensor embeds = model_->Embed(ids);
  for (const at::Tensor& mask : {at::Tensor(), ids.ne(-1)}) {
    EXPECT_LT(MaxDifference(model_->Logits(model_->Decode(embeds, positions.ids, mask)),
                            Expected("text_only.logits")),
              kLogits);
  }
}

TEST_F(QwenTest, TheGradientOfTheEmbeddingsMatches) {
  const at::Tensor embeds = Expected("hidden_states.0").clone().requires_grad_(true);
  const at::Tensor loss = Loss(
      model_->Logits(model_->Decode(embeds, Expected("position_ids"), Input("attention_mask"))));
  EXPECT_LT(RelativeDifference(GradientOf(loss, embeds), Expected("grad.inputs_embeds")), 1e-5);
}

TEST_F(QwenTest, GreedyGenerationMatches) {
  const at::Tensor& output = Expected("greedy.output_ids");
  const int64_t length = Input("input_ids").size(1);
  ASSERT_OK_AND_ASSIGN(const at::Tensor images,
                       model_->EncodeImages(Input("pixel_values").slice(0, 0, 24), {{grids_[0]}}));
  ASSERT_OK_AND_ASSIGN(const auto rows,
                       model_->Generate({.ids = Input("input_ids").slice(0, 0, 1),
                                         .attention_mask = Input("attention_mask").slice(0, 0, 1),
                                         .image_tokens = images,
                                         .grids = {grids_[0]}},
                                        {.max_new_tokens = output.size(1) - length}));
  ASSERT_EQ(rows.size(), 1u);
  ASSERT_EQ(static_cast<int64_t>(rows[0].size()), output.size(1) - length);
  for (size_t i = 0; i < rows[0].size(); ++i) {
    EXPECT_EQ(rows[0][i], output[0][length + static_cast<int64_t>(i)].item<int64_t>()) << i;
  }
}

TEST_F(QwenTest, ABatchGeneratesAsItsRowsDoAlone) {
  ASSERT_OK_AND_ASSIGN(const at::Tensor images,
                       model_->EncodeImages(Input("pixel_values"), grids_));
  Prompt both{Input("input_ids"), Input("attention_mask"), images, grids_};
  ASSERT_OK_AND_ASSIGN(const auto rows, model_->Generate(both, {.max_new_tokens = 5}));
  Prompt second{
      both.ids.slice(0, 1), both.attention_mask.slice(0, 1), images.slice(0, 6), {grids_[1]}};
  ASSERT_OK_AND_ASSIGN(const auto alone, model_->Generate(second, {.max_new_tokens = 5}));
  EXPECT_EQ(rows[1], alone[0]);
  ASSERT_OK_AND_ASSIGN(const auto stopped,
                       model_->Generate(second, {.max_new_tokens = 5, .stop_ids = {alone[0][2]}}));
  EXPECT_EQ(stopped[0].size(),
            std::find(alone[0].begin(), alone[0].end(), alone[0][2]) - alone[0].begin());
}

TEST_F(QwenTest, ImageTokensMustMatchTheirPlaces) {
  ASSERT_OK_AND_ASSIGN(const at::Tensor images,
                       model_->EncodeImages(Input("pixel_values"), grids_));
  EXPECT_THAT(model_->EmbedWithImages(Input("input_ids"), images.slice(0, 1)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("13")));
  EXPECT_THAT(model_->EmbedWithImages(Input("input_ids"), {}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(model_->EncodeImages(Input("pixel_values").slice(0, 1), grids_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("56")));
  EXPECT_THAT(model_->PositionsOf(Input("input_ids"), Input("attention_mask"), {{grids_[0]}}),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(QwenTest, EqualImagesInABatchAreEncodedAsAlone) {
  const at::Tensor pixels = RandomTensor({3 * 48, config_.vision.patch_elements()}, 3);
  const std::vector<ImageGrid> grids(3, ImageGrid{1, 6, 8});
  ASSERT_OK_AND_ASSIGN(const at::Tensor together, model_->EncodeImages(pixels, grids));
  for (int64_t i = 0; i < 3; ++i) {
    ASSERT_OK_AND_ASSIGN(
        const at::Tensor alone,
        model_->EncodeImages(pixels.slice(0, 48 * i, 48 * (i + 1)), std::span(grids).first(1)));
    EXPECT_LT(MaxDifference(together.slice(0, 12 * i, 12 * (i + 1)), alone), kHidden);
  }
}

}  // namespace
}  // namespace fedumm::model
