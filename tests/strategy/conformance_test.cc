// The built-in aggregators and strategies, and the example's, hold to what all must; and the suite
// notices those that do not.
#include "fedumm/testing/conformance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "examples/custom_strategy.h"
#include "fedumm/strategies.h"

namespace fedumm {
namespace {

using testing::CheckAggregator;
using testing::CheckStrategy;
using testing::ConformanceModel;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using testing::StrategyConformance;

struct Named {
  std::string name;
  std::function<std::unique_ptr<Strategy>()> make;
};

class StrategyConformanceTest : public ::testing::TestWithParam<Named> {};

TEST_P(StrategyConformanceTest, HoldsToWhatEveryStrategyMust) {
  EXPECT_THAT(CheckStrategy({.make = GetParam().make, .scratch_dir = ::testing::TempDir()}),
              IsEmpty());
}

TEST_P(StrategyConformanceTest, HoldsInFloat16AndFloat64) {
  for (const DType dtype : {DType::kFloat16, DType::kFloat64}) {
    ArrayRecord model;
    for (const auto& [key, array] : ConformanceModel()) {
      const Array form =
          *Array::Create(dtype, {array.shape().begin(), array.shape().end()},
                         std::string(array.num_elements() * ElementSize(dtype), '\0'));
      model.Set(key, Array::FromDoublesLike(form, array.ToDoubles()));
    }
    EXPECT_THAT(CheckStrategy({.make = GetParam().make,
                               .initial_arrays = model,
                               .deployment = false,
                               .scratch_dir = ::testing::TempDir()}),
                IsEmpty());
  }
}

std::vector<Named> AllStrategies() {
  std::vector<Named> all = {
      {"Example", [] { return std::make_unique<Nesterov>(); }},
      {"FedProxWithMu", [] { return std::make_unique<FedProx>(StrategyOptions(), 0.1); }},
      {"FedAvgMomentum",
       [] { return std::make_unique<FedAvgMomentum>(StrategyOptions(), 0.5, 0.9); }}};
  for (const std::string& name : StrategyNames()) {
    all.push_back({name, [name] { return *NewStrategy(name, {}); }});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, StrategyConformanceTest, ::testing::ValuesIn(AllStrategies()),
                         [](const auto& info) { return info.param.name; });

TEST(AggregatorConformanceTest, TheWeightedMeanHolds) {
  EXPECT_THAT(CheckAggregator(NewWeightedMean), IsEmpty());
}

TEST(AggregatorConformanceTest, AnAggregatorThatDependsOnTheOrderIsFound) {
  class Last final : public Aggregator {
   public:
    using Aggregator::Aggregator;

   private:
    absl::Status DoAdd(const Contribution& contribution) override {
      last_ = contribution.arrays;
      return absl::OkStatus();
    }
    absl::StatusOr<ArrayRecord> DoTakeResult() override { return last_; }
    ArrayRecord last_;
  };
  EXPECT_THAT(
      CheckAggregator([](const ArrayRecord& model) { return std::make_unique<Last>(model); }),
      Contains(HasSubstr("another order")));
}

TEST(AggregatorConformanceTest, AnAggregatorThatChecksNothingIsFound) {
  class Careless final : public Aggregator {
   public:
    using Aggregator::Aggregator;

   private:
    absl::Status Check(const Contribution&) const override { return absl::OkStatus(); }
    absl::Status DoAdd(const Contribution&) override { return absl::OkStatus(); }
    absl::StatusOr<ArrayRecord> DoTakeResult() override { return manifest(); }
  };
  EXPECT_THAT(
      CheckAggregator([](const ArrayRecord& model) { return std::make_unique<Careless>(model); }),
      Contains(HasSubstr("must be refused")));
}

TEST(StrategyConformanceTest, AStrategyThatForgetsItsStateIsFound) {
  class Forgetful final : public FedAvg {
    absl::StatusOr<ArrayRecord> Step(const Round& round, ArrayRecord aggregate) override {
      return ++steps_ % 2 == 0 ? round.arrays : aggregate;
    }
    int steps_ = 0;
  };
  EXPECT_THAT(CheckStrategy({.make = [] { return std::make_unique<Forgetful>(); },
                             .deployment = false,
                             .scratch_dir = ::testing::TempDir()}),
              Contains(HasSubstr("SaveState")));
}

TEST(StrategyConformanceTest, AStrategyWithAStepOfAnotherFormIsFound) {
  class Shrinking final : public FedAvg {
    absl::StatusOr<ArrayRecord> Step(const Round&, ArrayRecord aggregate) override {
      return ArrayRecord{*aggregate.begin()};
    }
  };
  EXPECT_THAT(CheckStrategy({.make = [] { return std::make_unique<Shrinking>(); },
                             .scratch_dir = ::testing::TempDir()}),
              Contains(HasSubstr("lacks tensor")));
}

}  // namespace
}  // namespace fedumm
