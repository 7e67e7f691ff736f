#include "fedumm/model/lora_bank.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Generator.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "fedumm/model/backbone.h"
#include "tests/model/lora/small_net.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

constexpr int64_t kLength = 9;

LoraConfig Config(int64_t r, double dropout) {
  LoraConfig config;
  config.r = r;
  config.lora_alpha = 6;
  config.lora_dropout = dropout;
  config.target_modules.names = {"q_proj", "v_proj", "lm_head"};
  return config;
}

class LoraBankTest : public ::testing::Test {
 protected:
  LoraBankTest() { at::manual_seed(3); }

  void MakeAdapters(const std::vector<int64_t>& ranks, double dropout) {
    for (size_t i = 0; i < ranks.size(); ++i) {
      auto adapter = LoraAdapter::Attach(net_.Linears(), Config(ranks[i], dropout), i);
      ASSERT_THAT(adapter, IsOk());
      const at::NoGradGuard no_grad;
      (*adapter)->parameters().values().copy_(at::randn((*adapter)->parameters().size()) * 0.3);
      ASSERT_THAT((*adapter)->Detach(), IsOk());
      adapters_.push_back(*std::move(adapter));
    }
  }
  std::unique_ptr<LoraBank> Bank() {
    std::vector<LoraAdapter*> pointers;
    for (const auto& adapter : adapters_) pointers.push_back(adapter.get());
    auto bank = LoraBank::Attach(pointers);
    EXPECT_THAT(bank, IsOk());
    return bank.ok() ? *std::move(bank) : nullptr;
  }
  static at::Tensor Loss(const at::Tensor& logits, const at::Tensor& weights) {
    return (logits * weights).sum();
  }

  // A batch of the rows in one pass, against each client alone with the same masks.
  void Compare(const std::vector<LoraBank::Rows>& rows) {
    int64_t batch = 0;
    for (const LoraBank::Rows& some : rows) batch += some.rows;
    const at::Tensor ids = at::randint(8, {batch, kLength}, at::kLong);
    at::Tensor together;
    std::vector<at::Tensor> gradients;
    at::Tensor weights;
    {
      const std::unique_ptr<LoraBank> bank = Bank();
      ASSERT_NE(bank, nullptr);
      ASSERT_THAT(bank->SetRows(rows), IsOk());
      for (const auto& adapter : adapters_) adapter->StartTraining(11);
      together = net_(ids);
      weights = at::randn(together.sizes());
      Loss(together, weights).backward();
      for (const auto& adapter : adapters_) {
        gradients.push_back(adapter->parameters().gradients().clone());
        adapter->parameters().ZeroGradients();
      }
    }
    int64_t first = 0;
    std::vector<bool> in_batch(adapters_.size());
    for (const LoraBank::Rows& some : rows) {
      LoraAdapter& adapter = *adapters_[static_cast<size_t>(some.adapter)];
      in_batch[static_cast<size_t>(some.adapter)] = true;
      ASSERT_THAT(adapter.Reattach(), IsOk());
      adapter.StartTraining(11);
      const at::Tensor alone = net_(ids.narrow(0, first, some.rows));
      EXPECT_LT((alone - together.narrow(0, first, some.rows)).abs().max().item<float>(), 2e-5);
      Loss(alone, weights.narrow(0, first, some.rows)).backward();
      const at::Tensor& expected = adapter.parameters().gradients();
      const at::Tensor difference = gradients[static_cast<size_t>(some.adapter)] - expected;
      EXPECT_GT(expected.abs().max().item<float>(), 0.1);
      EXPECT_LT(difference.norm().item<float>(), 1e-5 * expected.norm().item<float>());
      adapter.parameters().ZeroGradients();
      ASSERT_THAT(adapter.Detach(), IsOk());
      first += some.rows;
    }
    for (size_t i = 0; i < adapters_.size(); ++i) {
      EXPECT_EQ(gradients[i].abs().max().item<float>() > 0, in_batch[i]);
    }
  }

  SmallNet net_;
  std::vector<std::unique_ptr<LoraAdapter>> adapters_;
};

TEST_F(LoraBankTest, ABatchOfSeveralClientsEqualsOneAfterTheOther) {
  MakeAdapters({2, 5, 3, 1}, 0);
  Compare({{.adapter = 0, .rows = 2}, {.adapter = 1, .rows = 1}, {.adapter = 2, .rows = 3}});
  Compare({{.adapter = 3, .rows = 4}, {.adapter = 0, .rows = 1}});
  Compare({{.adapter = 1, .rows = 2}});
}

TEST_F(LoraBankTest, EachClientsDropoutIsThatOfTheClientAlone) {
  MakeAdapters({4, 2, 9}, 0.25);
  Compare({{.adapter = 2, .rows = 2}, {.adapter = 0, .rows = 3}, {.adapter = 1, .rows = 1}});
}

// A layer that is computed again draws the masks of the first time.
TEST_F(LoraBankTest, DrawsCanBeRepeated) {
  MakeAdapters({4, 2}, 0.5);
  const std::unique_ptr<LoraBank> bank = Bank();
  ASSERT_NE(bank, nullptr);
  ASSERT_THAT(bank->SetRows({{.adapter = 1, .rows = 1}, {.adapter = 0, .rows = 2}}), IsOk());
  for (const auto& adapter : adapters_) adapter->StartTraining(5);
  const LinearHook& hook = *net_.linear("lm_head").hook;
  const Linear& linear = net_.linear("lm_head");
  const at::Tensor x = at::randn({3, kLength, 16});
  const int64_t before = hook.draws();
  const at::Tensor first = hook.Forward(x, linear.weight, linear.bias).detach();
  const at::Tensor second = hook.Forward(x, linear.weight, linear.bias).detach();
  hook.SetDraws(before);
  EXPECT_TRUE(hook.Forward(x, linear.weight, linear.bias).detach().equal(first));
  EXPECT_FALSE(first.equal(second));
  EXPECT_TRUE(hook.Forward(x, linear.weight, linear.bias).detach().equal(second));
}

TEST_F(LoraBankTest, WhatDoesNotFitIsRefused) {
  MakeAdapters({2, 2}, 0);
  LoraConfig other = Config(2, 0);
  other.target_modules.names = {"q_proj"};
  auto narrow = LoraAdapter::Attach(net_.Linears(), other, 1);
  ASSERT_THAT(narrow, IsOk());
  EXPECT_THAT(LoraBank::Attach({narrow->get()}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("is not detached")));
  EXPECT_THAT(LoraBank::Attach({adapters_[0].get()}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not of the bank")));
  ASSERT_THAT((*narrow)->Detach(), IsOk());
  EXPECT_THAT(LoraBank::Attach({adapters_[0].get(), narrow->get()}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("other modules")));
  EXPECT_THAT(LoraBank::Attach({}), StatusIs(absl::StatusCode::kInvalidArgument));
  const std::unique_ptr<LoraBank> bank = Bank();
  ASSERT_NE(bank, nullptr);
  EXPECT_THAT(adapters_[0]->Reattach(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(bank->SetRows({}), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(bank->SetRows({{.adapter = 2, .rows = 1}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("adapter 2")));
  EXPECT_THAT(bank->SetRows({{.adapter = 1, .rows = 1}, {.adapter = 1, .rows = 1}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("twice")));
  EXPECT_THAT(bank->SetRows({{.adapter = 1, .rows = 0}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0 rows")));
  ASSERT_THAT(bank->SetRows({{.adapter = 0, .rows = 2}}), IsOk());
  EXPECT_THROW(net_(at::randint(8, {3, 1}, at::kLong)), c10::Error);
}

}  // namespace
}  // namespace fedumm::model
