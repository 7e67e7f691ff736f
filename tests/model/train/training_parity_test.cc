// An adapter on the released layout against transformers and PEFT, in fp32 and in bf16, with
// gradient checkpointing and without.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/function.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "fedumm/model/backbone.h"
#include "fedumm/model/checkpoint.h"
#include "fedumm/model/lora.h"
#include "fedumm/model/train.h"
#include "golden.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;

const char kKeyPrefix[] = "base_model.model.";

struct Training {
  std::vector<double> losses;
  std::vector<at::Tensor> gradients;  // of the first step
  at::Tensor adapter;                 // after the last step
  size_t nodes = 0;                   // of the first loss's graph
};

size_t CountNodes(const at::Tensor& loss) {
  std::set<torch::autograd::Node*> seen;
  std::vector<torch::autograd::Node*> open = {loss.grad_fn().get()};
  while (!open.empty()) {
    torch::autograd::Node* node = open.back();
    open.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    for (const auto& edge : node->next_edges()) open.push_back(edge.function.get());
  }
  return seen.size();
}

class TrainingParityTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override {
    golden_ = LoadGolden("blip3o/training_expected.safetensors");
    inputs_ = LoadGolden("blip3o/release_expected.safetensors");
    ASSERT_OK_AND_ASSIGN(model_, Load(FEDUMM_TEST_DATA "/blip3o/release", {.dtype = GetParam()}));
  }

  void Attach(double dropout) {
    LoraConfig config;
    config.r = 4;
    config.lora_alpha = 8;
    config.lora_dropout = dropout;
    config.target_modules.pattern =
        ".*language_model\\.layers\\.\\d+\\.(self_attn|mlp)\\.\\w+_proj";
    ASSERT_OK_AND_ASSIGN(adapter_, LoraAdapter::Attach(model_->Linears(), config, /*seed=*/1,
                                                       ModuleLayout::kTransformers5));
    keys_.clear();
    const at::NoGradGuard no_grad;
    for (const auto& [key, array] : adapter_->ToArrays()) {
      ASSERT_TRUE(key.starts_with(kKeyPrefix)) << key;
      const std::string name = key.substr(sizeof(kKeyPrefix) - 1);
      const auto start = golden_.find("adapter." + name);
      ASSERT_NE(start, golden_.end()) << key;
      adapter_->parameters().tensors()[keys_.size()].copy_(start->second);
      keys_.push_back(name);
    }
    ASSERT_EQ(keys_.size(), 28u);
  }

  at::Tensor Loss() {
    const at::Tensor& grid = inputs_.at("answer.grid_thw");
    const std::vector<ImageGrid> one = {
        {grid[0][0].item<int64_t>(), grid[0][1].item<int64_t>(), grid[0][2].item<int64_t>()}};
    const at::Tensor& ids = inputs_.at("answer.batch_ids");
    const at::Tensor& mask = inputs_.at("answer.batch_mask");
    const at::Tensor images =
        model_->EncodeImages(inputs_.at("answer.pixel_values").to(GetParam()), one).value();
    const at::Tensor embeds = model_->EmbedWithImages(ids, images).value();
    const at::Tensor positions = model_->PositionsOf(ids, mask, one)->ids;
    const at::Tensor logits =
        model_->Logits(model_->Decode(embeds, positions, mask)).to(at::kFloat);
    return at::cross_entropy_loss(logits.slice(1, 0, logits.size(1) - 1).flatten(0, 1),
                                  golden_.at("labels").slice(1, 1).flatten());
  }

  Training ThreeSteps(bool checkpointing, double dropout = 0) {
    Training result;
    adapter_.reset();
    Attach(dropout);
    adapter_->StartTraining(/*seed=*/5);
    const GradientCheckpointing scope(checkpointing);
    TrainOptions options;
    options.steps = 3;
    options.learning_rate.value = 1e-2;
    options.weight_decay = 0.01;
    options.on_gradients = [&](FlatParameters& parameters, const GradientPart& part) {
      if (part.step > 0) return absl::OkStatus();
      for (const at::Tensor& tensor : parameters.tensors()) {
        result.gradients.push_back(tensor.grad().clone());
      }
      return absl::OkStatus();
    };
    const absl::Status status = Train(
                                    adapter_->parameters(),
                                    [&](int64_t call) -> absl::StatusOr<at::Tensor> {
                                      const at::Tensor loss = Loss();
                                      if (call == 0) result.nodes = CountNodes(loss);
                                      result.losses.push_back(loss.item<double>());
                                      return loss;
                                    },
                                    options)
                                    .status();
    EXPECT_THAT(status, IsOk());
    result.adapter = adapter_->parameters().values().detach().clone();
    return result;
  }

  StateDict golden_, inputs_;
  std::unique_ptr<UnifiedModel> model_;
  std::unique_ptr<LoraAdapter> adapter_;
  std::vector<std::string> keys_;  // of the adapter's tensors, as the golden has them
};

TEST_P(TrainingParityTest, LossesAndGradientsAreThoseOfTheReference) {
  const bool wide = GetParam() == at::kFloat;
  const std::string tag = wide ? "fp32" : "bf16";
  const Training training = ThreeSteps(/*checkpointing=*/false);
  ASSERT_EQ(training.losses.size(), 3u);
  ASSERT_EQ(training.gradients.size(), keys_.size());
  for (int64_t step = 0; step < 3; ++step) {
    const double want = golden_.at(tag + ".losses")[step].item<double>();
    EXPECT_NEAR(training.losses[step], want, (wide ? 1e-4 : 5e-3) * want) << step;
  }
  double worst = 0;
  for (size_t i = 0; i < keys_.size(); ++i) {
    const at::Tensor& want = golden_.at(tag + ".grad." + keys_[i]);
    ASSERT_EQ(want.sizes(), training.gradients[i].sizes()) << keys_[i];
    const double relative = ((training.gradients[i] - want).norm() / want.norm()).item<double>();
    EXPECT_LT(relative, wide ? 1e-4 : 0.15) << keys_[i];
    worst = std::max(worst, relative);
  }
  RecordProperty("largest_relative_gradient_difference", std::to_string(worst));
}

TEST_P(TrainingParityTest, GradientCheckpointingChangesNoBit) {
  for (const double dropout : {0.0, 0.3}) {
    const Training plain = ThreeSteps(/*checkpointing=*/false, dropout);
    const Training again = ThreeSteps(/*checkpointing=*/true, dropout);
    EXPECT_EQ(plain.losses, again.losses) << dropout;
    EXPECT_TRUE(plain.adapter.equal(again.adapter)) << dropout;
    ASSERT_EQ(plain.gradients.size(), again.gradients.size());
    for (size_t i = 0; i < keys_.size(); ++i) {
      EXPECT_TRUE(plain.gradients[i].equal(again.gradients[i])) << keys_[i] << " " << dropout;
    }
    EXPECT_LT(2 * again.nodes, plain.nodes) << "each layer is one node";
  }
  EXPECT_NE(ThreeSteps(true, 0.3).losses, ThreeSteps(true, 0).losses) << "dropout does nothing";
}

INSTANTIATE_TEST_SUITE_P(Types, TrainingParityTest, ::testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& info) {
                           return std::string(info.param == at::kFloat ? "fp32" : "bf16");
                         });

}  // namespace
}  // namespace fedumm::model
