// An adapter on Qwen2.5-VL against PEFT: outputs, gradients, and three steps of AdamW.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/checkpoint.h"
#include "fedumm/model/lora.h"
#include "fedumm/model/train.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;

std::string DataPath(const std::string& name) {
  return std::string(FEDUMM_TEST_DATA "/qwen25vl/") + name;
}

StateDict Load(const std::string& name) {
  absl::StatusOr<StateDict> state = LoadStateDict(DataPath(name));
  EXPECT_THAT(state, IsOk());
  return state.value_or(StateDict());
}

double MaxDifference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<double>();
}

class QwenLoraTest : public ::testing::Test {
 protected:
  void SetUp() override {
    inputs_ = Load("inputs.safetensors");
    expected_ = Load("expected.safetensors");
    ASSERT_OK_AND_ASSIGN(const std::string json, ReadFile(DataPath("model/config.json")));
    ASSERT_OK_AND_ASSIGN(const BackboneConfig config, BackboneConfig::FromJson(json));
    ASSERT_OK_AND_ASSIGN(model_, UnifiedModel::Create(config, Load("model")));
    ASSERT_OK_AND_ASSIGN(hash_, HashParameters(model_->Parameters()));
    ASSERT_OK_AND_ASSIGN(adapter_, LoraAdapter::Load(model_->Linears(), DataPath("adapter_init")));
  }

  const at::Tensor& Input(const std::string& name) { return inputs_.at("input." + name); }
  absl::StatusOr<at::Tensor> Logits() {
    const std::vector<ImageGrid> grids = {{1, 4, 6}, {1, 8, 4}};
    const at::Tensor images = model_->EncodeImages(Input("pixel_values"), grids).value();
    const at::Tensor embeds = model_->EmbedWithImages(Input("input_ids"), images).value();
    const at::Tensor positions =
        model_->PositionsOf(Input("input_ids"), Input("attention_mask"), grids)->ids;
    return model_->Logits(model_->Decode(embeds, positions, Input("attention_mask")));
  }
  absl::StatusOr<at::Tensor> Loss() {
    const at::Tensor logits = Logits().value();
    return at::cross_entropy_loss(logits.slice(1, 0, logits.size(1) - 1).flatten(0, 1),
                                  Input("labels").slice(1, 1).flatten());
  }
  // Values at padding are not compared: the reference lets it look at everything.
  double LogitsDifference(const std::string& name) {
    const at::NoGradGuard no_grad;
    const at::Tensor kept = Input("attention_mask").flatten().to(at::kBool);
    return MaxDifference(Logits()->flatten(0, 1).index({kept}),
                         expected_.at(name).flatten(0, 1).index({kept}));
  }
  absl::Status TrainSteps(int64_t steps, std::vector<double>& losses) {
    TrainOptions options;
    options.steps = steps;
    options.learning_rate.value = 1e-2;
    options.weight_decay = 0.01;
    return Train(
               adapter_->parameters(),
               [&](int64_t) -> absl::StatusOr<at::Tensor> {
                 const at::Tensor loss = Loss().value();
                 losses.push_back(loss.item<double>());
                 return loss;
               },
               options, &state_)
        .status();
  }
  // Against the gradients that PEFT had at that step.
  void ExpectGradients(int step) {
    adapter_->parameters().ZeroGradients();
    Loss()->backward();
    const ArrayRecord arrays = adapter_->ToArrays();
    size_t i = 0;
    for (const auto& [key, ignored] : arrays) {
      const at::Tensor& expected = expected_.at("grad_step" + std::to_string(step) + "." + key);
      const double scale = expected.abs().max().item<double>();
      EXPECT_LE(MaxDifference(adapter_->parameters().tensors()[i++].grad(), expected),
                1e-5 * scale + 1e-8)
          << key;
    }
    EXPECT_EQ(i, 28u);
  }

  StateDict inputs_, expected_;
  std::unique_ptr<UnifiedModel> model_;
  std::string hash_;
  std::unique_ptr<LoraAdapter> adapter_;
  AdamWState state_;
};

TEST_F(QwenLoraTest, ThreeStepsOfAdamWGiveTheReferencesLossesAdapterAndLogits) {
  EXPECT_EQ(adapter_->parameters().size(), 9344);
  EXPECT_EQ(adapter_->layout(), ModuleLayout::kTransformers5);
  std::vector<double> losses;
  ExpectGradients(0);
  ASSERT_THAT(TrainSteps(1, losses), IsOk());
  ExpectGradients(1);
  ASSERT_THAT(TrainSteps(2, losses), IsOk());
  losses.push_back(Loss()->item<double>());
  const at::Tensor& golden = expected_.at("losses_adamw");
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(losses[i], golden[i].item<double>(), 1e-5) << i;

  ASSERT_OK_AND_ASSIGN(const StateDict after,
                       LoadStateDict(DataPath("adapter_after3/adapter_model.safetensors")));
  const ArrayRecord arrays = adapter_->ToArrays();
  size_t i = 0;
  double squares = 0;
  for (const auto& [key, ignored] : arrays) {
    const auto expected = after.find(key);
    ASSERT_NE(expected, after.end()) << key;
    const at::Tensor trained = adapter_->parameters().tensors()[i++].detach();
    // Where a gradient is all but zero, Adam's quotient shows the rounding of its sum: of a way of
    // up to 3e-2, a few elements are off by more than the others.
    EXPECT_LT(MaxDifference(trained, expected->second), 1e-3) << key;
    squares += (trained - expected->second).square().sum().item<double>();
  }
  EXPECT_LT(std::sqrt(squares / 9344), 1e-5);

  EXPECT_LT(LogitsDifference("logits_after_3_steps"), 1e-3);
  EXPECT_EQ(HashParameters(model_->Parameters()).value(), hash_) << "the backbone moved";
  ASSERT_THAT(adapter_->Merge(), IsOk());
  EXPECT_LT(LogitsDifference("logits_merged"), 1e-3);
  ASSERT_THAT(adapter_->Unmerge(), IsOk());
  EXPECT_EQ(HashParameters(model_->Parameters()).value(), hash_);
}

TEST_F(QwenLoraTest, ATrainedAdapterOfPeftGivesItsLogits) {
  adapter_.reset();
  ASSERT_OK_AND_ASSIGN(adapter_, LoraAdapter::Load(model_->Linears(), DataPath("adapter_after3")));
  EXPECT_LT(LogitsDifference("logits_after_3_steps"), 1e-4);
  ASSERT_THAT(adapter_->Merge(), IsOk());
  EXPECT_LT(LogitsDifference("logits_merged"), 1e-4);
}

TEST_F(QwenLoraTest, AFolderIsSavedByteForByteAsPeftDid) {
  const std::string folder = ::testing::TempDir() + "qwen_lora_test_adapter";
  ASSERT_THAT(adapter_->Save(folder), IsOk());
  for (const std::string file : {"/adapter_config.json", "/adapter_model.safetensors"}) {
    ASSERT_OK_AND_ASSIGN(const std::string expected, ReadFile(DataPath("adapter_init") + file));
    ASSERT_OK_AND_ASSIGN(const std::string actual, ReadFile(folder + file));
    EXPECT_TRUE(actual == expected) << file;
  }
}

TEST_F(QwenLoraTest, TwoTrainingsGiveTheSameBits) {
  std::vector<double> losses;
  const ArrayRecord start = adapter_->ToArrays();
  ASSERT_THAT(TrainSteps(2, losses), IsOk());
  const ArrayRecord first = adapter_->ToArrays();
  ASSERT_THAT(adapter_->FromArrays(start), IsOk());
  state_ = {};
  ASSERT_THAT(TrainSteps(2, losses), IsOk());
  EXPECT_EQ(adapter_->ToArrays(), first);
  EXPECT_FALSE(first == start);
}

}  // namespace
}  // namespace fedumm::model
