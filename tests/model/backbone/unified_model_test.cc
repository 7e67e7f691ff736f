#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/max.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/std.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "fedumm/model/backbone.h"
#include "model/guarded.h"
#include "tests/model/backbone/golden.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using fedumm::testing::StatusIs;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

class UnifiedModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(model_,
                         UnifiedModel::Create(config_, UnifiedModel::InitialState(config_, 1)));
  }
  at::Tensor Ids(int64_t batch, int64_t length) {
    return (at::arange(batch * length, at::kLong) % 30 + 5).view({batch, length});
  }

  const BackboneConfig config_ = TinyConfig();
  std::unique_ptr<UnifiedModel> model_;
};

TEST_F(UnifiedModelTest, TheTinyModelHasTheDocumentedSize) {
  const auto count = [&](std::string_view prefix) {
    int64_t total = 0;
    for (const auto& [name, tensor] : model_->Parameters()) {
      if (name.starts_with(prefix)) total += tensor->numel();
    }
    return total;
  };
  EXPECT_EQ(count("visual."), 210'848);
  EXPECT_EQ(count("model.latent_queries"), 1'536);
  EXPECT_EQ(count("model.layers.") + count("model.norm."), 305'376);
  EXPECT_EQ(count("model.dit."), 281'372);
}

TEST_F(UnifiedModelTest, TensorsThatDoNotFitAreNamed) {
  StateDict state = UnifiedModel::InitialState(config_, 1);
  state.erase("model.norm.weight");
  state["model.layers.3.mlp.up_proj.weight"] = at::zeros({256, 96});
  state["lm_head.weight"] = at::zeros({40, 96});
  state["visual.merger.ln_q.weight"] = at::zeros({65});
  EXPECT_THAT(UnifiedModel::Create(config_, state),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("missing: model.norm.weight"),
                             HasSubstr("unexpected: lm_head.weight, model.layers.3"),
                             HasSubstr("visual.merger.ln_q.weight is [65], not [64]"))));
  state = UnifiedModel::InitialState(config_, 1);
  state["model.latent_queries"] = at::zeros({1, 16, 96}, at::kHalf);
  EXPECT_THAT(UnifiedModel::Create(config_, state),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("model.latent_queries is Half"), HasSubstr("Float"))));
  BackboneConfig bad = config_;
  bad.text.num_attention_heads = 7;
  EXPECT_THAT(UnifiedModel::Create(bad, UnifiedModel::InitialState(config_, 1)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("num_attention_heads")));
}

TEST_F(UnifiedModelTest, TheTargetEncodersWeightsAreDropped) {
  StateDict state = UnifiedModel::InitialState(config_, 1);
  state["model.gen_vision_tower.vision_tower.model.cls_token"] = at::zeros({1, 1, 8}, at::kHalf);
  ASSERT_OK_AND_ASSIGN(const auto model, UnifiedModel::Create(config_, state));
  EXPECT_EQ(model->Parameters().size(), ExpectedTensors(config_).size());
}

TEST_F(UnifiedModelTest, EqualSeedsGiveEqualWeights) {
  const StateDict a = UnifiedModel::InitialState(config_, 5);
  const StateDict b = UnifiedModel::InitialState(config_, 5);
  const StateDict c = UnifiedModel::InitialState(config_, 6);
  for (const auto& [name, tensor] : a) EXPECT_TRUE(tensor.equal(b.at(name))) << name;
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  EXPECT_FALSE(a.at(name).equal(c.at(name)));
  EXPECT_NEAR(at::std(a.at(name)).item<double>(), 0.6 / std::sqrt(256.0), 1e-3);
}

TEST_F(UnifiedModelTest, AFreshDitIsTheZeroFunction) {
  const at::Tensor output = model_->Dit(RandomTensor({2, 16, 8, 8}, 1), at::full({2}, 500.0),
                                        RandomTensor({2, 16, 96}, 2));
  EXPECT_EQ(MaxDifference(output, at::zeros({2, 16, 8, 8})), 0);
}

TEST_F(UnifiedModelTest, EveryLinearIsListedUnderItsModulePath) {
  std::vector<std::string> paths;
  for (const NamedLinear& linear : model_->Linears()) paths.push_back(linear.path);
  EXPECT_TRUE(std::is_sorted(paths.begin(), paths.end()));
  // 5 a block and 2 in the merger; 7 a layer; 11 a layer and 8 around them.
  EXPECT_EQ(paths.size(), 2u * 5 + 2 + 3 * 7 + 3 * 11 + 8);
  EXPECT_THAT(paths, Contains("visual.blocks.1.attn.qkv"));
  EXPECT_THAT(paths, Contains("model.layers.2.self_attn.o_proj"));
  EXPECT_THAT(paths, Contains("model.dit.model.layers.0.attn2.to_out.0"));
  EXPECT_THAT(paths, Not(Contains("lm_head")));

  BackboneConfig untied = config_;
  untied.text.tie_word_embeddings = false;
  ASSERT_OK_AND_ASSIGN(const auto model,
                       UnifiedModel::Create(untied, UnifiedModel::InitialState(untied, 1)));
  EXPECT_EQ(model->Linears().front().path, "lm_head");
  EXPECT_EQ(model->Logits(RandomTensor({2, 96}, 1)).size(1), 40);
}

// Counts its calls and passes them on.
class CountingHook final : public LinearHook {
 public:
  at::Tensor Forward(const at::Tensor& x, const at::Tensor& weight,
                     const at::Tensor& bias) const override {
    ++calls;
    return at::linear(x, weight, bias);
  }
  mutable int calls = 0;
};

TEST_F(UnifiedModelTest, EveryLinearRunsItsHookOncePerPass) {
  const auto hook = std::make_shared<CountingHook>();
  for (const NamedLinear& linear : model_->Linears()) linear.linear->hook = hook;
  const std::vector<ImageGrid> grids = {{1, 8, 8}};
  ASSERT_OK_AND_ASSIGN(const at::Tensor images,
                       model_->EncodeImages(RandomTensor({64, 384}, 1), grids));
  EXPECT_EQ(hook->calls, 12);
  const at::Tensor z = model_->GenerationHidden(Ids(2, 5));
  EXPECT_EQ(hook->calls, 12 + 21);
  model_->Dit(RandomTensor({2, 16, 8, 8}, 1), at::full({2}, 500.0), z);
  EXPECT_EQ(hook->calls, 12 + 21 + 41);
}

TEST_F(UnifiedModelTest, GradientsAreSwitchedByPrefix) {
  model_->SetRequiresGrad(true, "model.dit.");
  for (const auto& [name, tensor] : model_->Parameters()) {
    EXPECT_EQ(tensor->requires_grad(), name.starts_with("model.dit.")) << name;
  }
  model_->SetRequiresGrad(false);
  for (const auto& [name, tensor] : model_->Parameters()) EXPECT_FALSE(tensor->requires_grad());
}

TEST_F(UnifiedModelTest, ParametersAreTheTensorsThatTheModelUses) {
  const at::Tensor ids = Ids(1, 4);
  model_->Parameters().at("model.embed_tokens.weight")->zero_();
  EXPECT_EQ(MaxDifference(model_->Embed(ids), at::zeros({1, 4, 96})), 0);
}

TEST_F(UnifiedModelTest, PaddingOnTheRightNeedsNoMask) {
  const at::Tensor ids = Ids(2, 9);
  const at::Tensor positions = at::arange(9, at::kLong).expand({3, 1, 9});
  at::Tensor mask = at::ones({2, 9}, at::kLong);
  mask[1].slice(0, 6).zero_();
  const at::Tensor embeds = model_->Embed(ids);
  const at::Tensor plain = model_->Decode(embeds, positions);
  const at::Tensor masked = model_->Decode(embeds, positions.expand({3, 2, 9}), mask);
  EXPECT_LT(MaxDifference(plain[0], masked[0]), 1e-5);
  EXPECT_LT(MaxDifference(plain[1].slice(0, 0, 6), masked[1].slice(0, 0, 6)), 1e-5);
}

TEST_F(UnifiedModelTest, GenerationHiddenIsTheAnswerToTheQueries) {
  const at::Tensor hidden = model_->GenerationHidden(Ids(3, 5));
  EXPECT_EQ(hidden.sizes(), (std::vector<int64_t>{3, 16, 96}));
  model_->Parameters().at("model.latent_queries")->slice(1, 8).zero_();
  const at::Tensor changed = model_->GenerationHidden(Ids(3, 5));
  EXPECT_EQ(MaxDifference(hidden.slice(1, 0, 8), changed.slice(1, 0, 8)), 0);
  EXPECT_GT(MaxDifference(hidden.slice(1, 8), changed.slice(1, 8)), 1e-3);
}

TEST_F(UnifiedModelTest, PromptsOfDifferentLengthsAreAnsweredAsOneByOne) {
  const int64_t n_query = 16, width = 9 + n_query;
  const std::vector<int64_t> lengths = {5, 9, 1};
  at::Tensor padded = at::zeros({3, width}, at::kLong);
  const at::Tensor prompts = Ids(3, 9);
  std::vector<at::Tensor> slots;
  for (size_t i = 0; i < 3; ++i) {
    const auto row = static_cast<int64_t>(i);
    padded[row].slice(0, 0, lengths[i]).copy_(prompts[row].slice(0, 0, lengths[i]));
    slots.push_back(at::arange(n_query, at::kLong) + row * width + lengths[i]);
  }
  const at::Tensor all = model_->GenerationHidden(padded, at::cat(slots));
  ASSERT_EQ(all.sizes(), (std::vector<int64_t>{3, 16, 96}));
  for (size_t i = 0; i < 3; ++i) {
    const auto row = static_cast<int64_t>(i);
    const at::Tensor alone =
        model_->GenerationHidden(prompts.slice(0, row, row + 1).slice(1, 0, lengths[i]));
    EXPECT_LT(RelativeDifference(all[row], alone[0]), 1e-6) << i;
  }
  // What stands behind the queries is seen by nothing.
  padded[0].slice(0, 5 + n_query).fill_(7);
  EXPECT_EQ(MaxDifference(model_->GenerationHidden(padded, at::cat(slots)), all), 0);
}

TEST_F(UnifiedModelTest, DroppedConditionsAreZeroesToTheFlowLoss) {
  for (const auto& [name, tensor] : model_->Parameters()) {
    if (name.starts_with("model.dit.") && at::max(at::abs(*tensor)).item<double>() == 0) {
      tensor->copy_(RandomTensor(tensor->sizes(), name.size()) * 0.1);
    }
  }
  const at::Tensor latents = RandomTensor({2, 16, 8, 8}, 1), noise = RandomTensor({2, 16, 8, 8}, 2);
  const at::Tensor z = RandomTensor({2, 16, 96}, 3), u = at::full({2}, 0.25);
  const at::Tensor drop = model_->FlowLoss(latents, z, noise, u, at::zeros({2}));
  const at::Tensor keep = model_->FlowLoss(latents, z, noise, u, at::ones({2}));
  const at::Tensor zero = model_->FlowLoss(latents, at::zeros_like(z), noise, u, at::ones({2}));
  EXPECT_EQ(MaxDifference(drop, zero), 0);
  EXPECT_GT(MaxDifference(keep, zero), 1e-5);
  // u = 0.25 is timestep 750.
  const at::Tensor velocity = model_->Dit(0.25 * latents + 0.75 * noise, at::full({2}, 750.0), z);
  EXPECT_LT(MaxDifference(keep, at::mse_loss(velocity, noise - latents)), 1e-5);
}

TEST_F(UnifiedModelTest, AModelWithoutDitDrawsNothing) {
  BackboneConfig config = config_;
  config.dit.reset();
  config.n_query = 0;
  ASSERT_OK_AND_ASSIGN(const auto model,
                       UnifiedModel::Create(config, UnifiedModel::InitialState(config, 1)));
  const absl::Status status = Guarded([&]() -> absl::Status {
    model->GenerationHidden(Ids(1, 4));
    return absl::OkStatus();
  });
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInternal, HasSubstr("draws no images")));
}

TEST_F(UnifiedModelTest, HalfPrecisionStaysCloseToFull) {
  StateDict half = UnifiedModel::InitialState(config_, 1);
  for (auto& [name, tensor] : half) tensor = tensor.to(at::kBFloat16);
  ASSERT_OK_AND_ASSIGN(const auto model, UnifiedModel::Create(config_, std::move(half)));
  const at::Tensor pixels = RandomTensor({128, 384}, 1);
  const std::vector<ImageGrid> grids(2, ImageGrid{1, 8, 8});
  ASSERT_OK_AND_ASSIGN(const at::Tensor a, model_->EncodeImages(pixels, grids));
  ASSERT_OK_AND_ASSIGN(const at::Tensor b, model->EncodeImages(pixels, grids));
  EXPECT_EQ(b.scalar_type(), at::kBFloat16);
  EXPECT_LT(RelativeDifference(b, a), 0.05);
  const at::Tensor hidden = model->GenerationHidden(Ids(2, 5));
  EXPECT_EQ(hidden.scalar_type(), at::kBFloat16);
  EXPECT_LT(RelativeDifference(hidden, model_->GenerationHidden(Ids(2, 5))), 0.05);
  const at::Tensor noise = RandomTensor({2, 16, 8, 8}, 2);
  EXPECT_EQ(model->Sample(hidden, noise.to(at::kBFloat16), {.steps = 2}).scalar_type(),
            at::kBFloat16);
  EXPECT_EQ(model->FlowLoss(noise, hidden, noise, at::full({2}, 0.5), at::ones({2})).scalar_type(),
            at::kFloat);
}

}  // namespace
}  // namespace fedumm::model
