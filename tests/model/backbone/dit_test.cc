// The drawing half against BLIP-3o's own DiT.
#include "model/backbone/dit.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/max.h>
#include <ATen/ops/sum.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/backbone/module_visitor.h"
#include "tests/model/backbone/golden.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

constexpr double kValue = 1e-5;
constexpr double kGradient = 3e-5;  // relative; which digits are lost depends on the processor

class DitTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(const DitConfig config,
                         DitConfigFromJson(ReadTestFile("dit/config.json")));
    state_ = LoadGolden("dit/dit.safetensors");
    inputs_ = LoadGolden("dit/inputs.safetensors");
    expected_ = LoadGolden("dit/expected.safetensors");
    dit_.emplace(config);
    StateBinder binder(state_);
    dit_->Visit(binder);
  }
  const at::Tensor& Input(const std::string& name) { return inputs_.at(name); }
  const at::Tensor& Expected(const std::string& name) { return expected_.at(name); }

  StateDict state_;
  StateDict inputs_;
  StateDict expected_;
  std::optional<DiffusionTransformer> dit_;
};

TEST_F(DitTest, OutputAndEveryLayerMatch) {
  DiffusionTransformer::Trace trace;
  const at::Tensor output = dit_->Run(Input("x"), Input("timestep"), Input("z_latents"), &trace);
  EXPECT_LT(MaxDifference(trace.context, Expected("caption_projection")), kValue);
  // cos and sin of angles up to 1000 lose 6e-5 before they are multiplied.
  EXPECT_LT(MaxDifference(trace.time_embedding, Expected("temb")), 1e-4);
  ASSERT_EQ(trace.layers.size(), 2u);
  EXPECT_LT(MaxDifference(trace.layers[0], Expected("layer_out.0")), kValue);
  EXPECT_LT(MaxDifference(trace.layers[1], Expected("layer_out.1")), kValue);
  EXPECT_LT(MaxDifference(output, Expected("output")), kValue);
}

TEST_F(DitTest, RotaryTablesMatch) {
  EXPECT_LT(MaxDifference(dit_->cos()[0], Expected("rope.cos")), 1e-6);
  EXPECT_LT(MaxDifference(dit_->sin()[0], Expected("rope.sin")), 1e-6);
}

TEST_F(DitTest, ARowOfABatchMatchesTheRowAlone) {
  const auto row = [](const at::Tensor& x) { return x.slice(0, 1, 2); };
  EXPECT_LT(
      MaxDifference(dit_->Run(row(Input("x")), row(Input("timestep")), row(Input("z_latents"))),
                    Expected("output.row1")),
      kValue);
}

TEST_F(DitTest, GradientsOfInputsAndOfEveryParameterMatch) {
  for (auto& [name, tensor] : state_) tensor.requires_grad_(true);
  const at::Tensor x = Input("x").clone().requires_grad_(true);
  const at::Tensor z = Input("z_latents").clone().requires_grad_(true);
  at::sum(dit_->Run(x, Input("timestep"), z) * Expected("grad_output")).backward();
  EXPECT_LT(RelativeDifference(x.grad(), Expected("grad.x")), kGradient);
  EXPECT_LT(RelativeDifference(z.grad(), Expected("grad.z_latents")), kGradient);
  for (const auto& [name, tensor] : state_) {
    const at::Tensor& expected = Expected("grad." + name);
    // Softmax does not feel a bias on all keys: the gradient of attn2.norm_k.bias is rounding
    // noise.
    const double size = at::max(at::abs(expected)).item<double>();
    EXPECT_LT(MaxDifference(tensor.grad(), expected), kGradient * size + 1e-6) << name;
  }
}

TEST_F(DitTest, FlowLossAndItsGradientsMatch) {
  for (auto& [name, tensor] : state_) tensor.requires_grad_(true);
  const at::Tensor z = Input("z_latents").clone().requires_grad_(true);
  const at::Tensor loss = dit_->FlowLoss(Expected("flow.latents"), z, Expected("flow.noise"),
                                         Expected("flow.u"), Expected("flow.keep"));
  EXPECT_LT(MaxDifference(loss.reshape(1), Expected("flow.loss")), 1e-5);
  loss.backward();
  EXPECT_LT(RelativeDifference(z.grad(), Expected("flow.grad.z_latents")), kGradient);
  int compared = 0;
  for (const auto& [name, tensor] : state_) {
    const auto found = expected_.find("flow.grad." + name);
    if (found == expected_.end()) continue;
    EXPECT_LT(RelativeDifference(tensor.grad(), found->second), kGradient) << name;
    ++compared;
  }
  EXPECT_EQ(compared, 7);
}

struct SampleCase {
  const char* expected;
  SampleOptions options;
};

class DitSampleTest : public DitTest, public ::testing::WithParamInterface<SampleCase> {};

TEST_P(DitSampleTest, TheSampleMatches) {
  const at::Tensor z = Input("z_latents").slice(0, 0, 2);
  EXPECT_LT(MaxDifference(dit_->Sample(z, Expected("sample.noise"), GetParam().options),
                          Expected(GetParam().expected)),
            1e-3);
}

INSTANTIATE_TEST_SUITE_P(
    Variants, DitSampleTest,
    ::testing::Values(SampleCase{"sample.final", {}},
                      SampleCase{"sample.final_float_timesteps", {.integer_timesteps = false}},
                      SampleCase{"sample.final_no_cfg", {.guidance = 1.0}},
                      SampleCase{"sample.final_8_steps", {.steps = 8}}),
    [](const auto& info) {
      return std::string(info.param.expected).substr(std::string("sample.").size());
    });

}  // namespace
}  // namespace fedumm::model
