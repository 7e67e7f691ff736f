// Strategies over real adapters: float32 matrices under PEFT's keys, trained by gradient steps.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "examples/custom_strategy.h"
#include "fedumm/model/lora.h"
#include "fedumm/simulation.h"
#include "record/form.h"
#include "tests/model/lora/small_net.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;

// Nodes that share one net and pull its answers towards their partition's number.
class StrategyOverLoraTest : public ::testing::Test {
 protected:
  void SetUp() override {
    LoraConfig config;
    config.r = 2;
    config.target_modules.names = {"q_proj", "v_proj"};
    ASSERT_OK_AND_ASSIGN(adapter_, LoraAdapter::Attach(net_.Linears(), config, 1));
    app_.OnTrain(
        [this](const Message& message, Context& context) { return Train(message, context); });
    ASSERT_OK_AND_ASSIGN(grid_, NewSimulation(app_, {.num_nodes = 2}));
  }

  at::Tensor Loss(double goal) {
    return (net_(at::arange(4, at::kLong).unsqueeze(0)) - goal).square().mean();
  }

  absl::StatusOr<RecordDict> Train(const Message& message, Context& context) {
    const ArrayRecord& arrays = *message.content->FindArrays("arrays");
    if (absl::Status status = adapter_->FromArrays(arrays); !status.ok()) return status;
    const double goal = NumberOr(context.node_config, "partition-id", 0);
    double loss = 0;
    for (int step = 0; step < 3; ++step) {
      adapter_->parameters().ZeroGradients();
      const at::Tensor value = Loss(goal);
      value.backward();
      loss = value.item<double>();
      const c10::NoGradGuard no_grad;
      adapter_->parameters().values().sub_(adapter_->parameters().gradients(), 0.05);
    }
    absl::StatusOr<ArrayRecord> trained = adapter_->ToArraysLike(arrays);
    if (!trained.ok()) return trained.status();
    return RecordDict{{"arrays", *std::move(trained)},
                      {"metrics", MetricRecord{{"num-examples", int64_t{4}}, {"loss", loss}}}};
  }

  void ExpectLearns(Strategy& strategy, const ArrayRecord& initial) {
    ASSERT_OK_AND_ASSIGN(const Result result, strategy.Start(*grid_, initial, {.num_rounds = 4}));
    for (int round = 1; round <= 4; ++round) EXPECT_TRUE(result.rounds[round].updated) << round;
    EXPECT_LT(NumberOr(result.rounds[4].train_metrics, "loss", 1e9),
              NumberOr(result.rounds[1].train_metrics, "loss", -1e9));
    ASSERT_EQ(result.arrays.size(), initial.size());
    for (const auto& [key, array] : initial) {
      EXPECT_TRUE(SameForm(*result.arrays.Find(key), array)) << key;
    }
    EXPECT_THAT(adapter_->FromArrays(result.arrays), IsOk());
  }

  SmallNet net_;
  std::unique_ptr<LoraAdapter> adapter_;
  ClientApp app_;
  std::unique_ptr<Grid> grid_;
};

TEST_F(StrategyOverLoraTest, TheExamplesStrategyTrainsAFloat32Adapter) {
  Nesterov strategy({.fraction_evaluate = 0});
  ExpectLearns(strategy, adapter_->ToArrays());
}

TEST_F(StrategyOverLoraTest, EveryBuiltInStrategyTrainsAFloat32Adapter) {
  const ArrayRecord initial = adapter_->ToArrays();
  for (const std::string& name : StrategyNames()) {
    ASSERT_OK_AND_ASSIGN(const auto strategy, NewStrategy(name, {.fraction_evaluate = 0}));
    ExpectLearns(*strategy, initial);
  }
}

TEST_F(StrategyOverLoraTest, AModelInFloat16StaysInFloat16) {
  ArrayRecord initial;
  for (const auto& [key, array] : adapter_->ToArrays()) {
    const std::vector<int64_t> shape(array.shape().begin(), array.shape().end());
    const Array form =
        *Array::Create(DType::kFloat16, shape, std::string(2 * array.num_elements(), '\0'));
    initial.Set(key, Array::FromDoublesLike(form, array.ToDoubles()));
  }
  Nesterov strategy({.fraction_evaluate = 0});
  ExpectLearns(strategy, initial);
}

}  // namespace
}  // namespace fedumm::model
