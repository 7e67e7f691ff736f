#include "fedumm/aggregator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>

#include "base/random.h"
#include "tests/testing/status_matchers.h"

namespace fedumm {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::IsOkAndHolds;
using testing::StatusIs;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

template <typename T>
Array ArrayOf(DType dtype, const std::vector<T>& values) {
  std::string bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  return *Array::Create(dtype, {static_cast<int64_t>(values.size())}, std::move(bytes));
}
Array Floats(const std::vector<float>& values) { return ArrayOf(DType::kFloat32, values); }

ArrayRecord Adapter() {
  return {{"a", Array::FromFloats({2, 2}, std::vector<float>{1, 2, 3, 4})}, {"b", Floats({5, 6})}};
}

absl::StatusOr<ArrayRecord> MeanOf(const std::vector<std::pair<ArrayRecord, double>>& replies) {
  const std::unique_ptr<Aggregator> aggregator = NewWeightedMean(replies[0].first);
  uint64_t node_id = 1;
  for (const auto& [arrays, weight] : replies) {
    if (absl::Status status = aggregator->Add({node_id++, arrays, weight}); !status.ok()) {
      return status;
    }
  }
  return std::move(*aggregator).TakeResult();
}

TEST(WeightedMeanTest, HandWorkedNumbers) {
  const ArrayRecord x = {{"w", Floats({1, -2, 0})}};
  const ArrayRecord y = {{"w", Floats({3, 6, 0})}};
  EXPECT_THAT(MeanOf({{x, 1}, {y, 3}}), IsOkAndHolds(ArrayRecord{{"w", Floats({2.5f, 4, 0})}}));
}

TEST(WeightedMeanTest, NothingAddedIsFailedPrecondition) {
  EXPECT_THAT(std::move(*NewWeightedMean(Adapter())).TakeResult(),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST(WeightedMeanTest, OneContributionComesBackAsItWas) {
  Random random(1);
  std::vector<float> values(1500);
  for (float& value : values) value = static_cast<float>(random.Normal());
  const ArrayRecord x = {{"w", Floats(values)}};
  EXPECT_THAT(MeanOf({{x, 3}}), IsOkAndHolds(x));
  EXPECT_THAT(MeanOf({{x, 0.1}}), IsOkAndHolds(x));
  EXPECT_THAT(MeanOf({{x, 7}, {x, 11}, {x, 1}}), IsOkAndHolds(x));
}

TEST(WeightedMeanTest, EachTensorIsAveragedOverTheNodesThatTrainedIt) {
  const ArrayRecord global = {
      {"decoder", Floats({0})}, {"dit", Floats({5})}, {"nobody", Floats({7})}};
  const std::unique_ptr<Aggregator> aggregator = NewWeightedMean(global);
  // 8 questions and 2 pictures; the tensors come in another order.
  const ArrayRecord both = {
      {"dit", Floats({10})}, {"nobody", Floats({7})}, {"decoder", Floats({1})}};
  EXPECT_THAT(aggregator->Add({.node_id = 1,
                               .arrays = both,
                               .weight = 10,
                               .tensor_shares = std::array<double, 3>{0.2, 0, 1}}),
              IsOk());
  // 6 pictures.
  const ArrayRecord draws = {
      {"decoder", Floats({2})}, {"dit", Floats({14})}, {"nobody", Floats({7})}};
  EXPECT_THAT(aggregator->Add({.node_id = 2,
                               .arrays = draws,
                               .weight = 6,
                               .tensor_shares = std::array<double, 3>{1, 1, 0}}),
              IsOk());
  // 4 questions: its copy of the DiT does not count.
  EXPECT_THAT(aggregator->Add({.node_id = 3,
                               .arrays = global,
                               .weight = 4,
                               .tensor_shares = std::array<double, 3>{1, 0, 0}}),
              IsOk());
  EXPECT_THAT(std::move(*aggregator).TakeResult(),
              IsOkAndHolds(ArrayRecord{{"decoder", Floats({(10 * 1 + 6 * 2 + 4 * 0) / 20.0f})},
                                       {"dit", Floats({(2 * 10 + 6 * 14) / 8.0f})},
                                       {"nobody", Floats({7})}}));
}

TEST(WeightedMeanTest, SharesThatAreNoSharesAreRefused) {
  const ArrayRecord global = {{"a", Floats({1})}, {"b", Floats({2})}};
  const std::unique_ptr<Aggregator> aggregator = NewWeightedMean(global);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const std::vector<double>& shares :
       {std::vector<double>{1}, {1, 1, 1}, {1, -0.5}, {2, 1}, {nan, 1}}) {
    EXPECT_THAT(
        aggregator->Add({.node_id = 9, .arrays = global, .weight = 1, .tensor_shares = shares}),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("node 9")));
  }
  EXPECT_EQ(aggregator->num_added(), 0);
}

TEST(WeightedMeanTest, AnyOrderGivesTheSameBitsWithinOneUlpOfTheTruth) {
  constexpr int kNodes = 13;
  constexpr int64_t kElements = 1237;
  Random random(7);
  std::vector<std::pair<std::vector<float>, double>> replies(kNodes);
  for (auto& [values, weight] : replies) {
    weight = 1 + static_cast<double>(random.Below(100'000));
    values.resize(kElements);
    for (float& value : values) {
      value =
          static_cast<float>(std::ldexp(random.Normal(), static_cast<int>(random.Below(60)) - 30));
    }
  }
  std::vector<long double> truth(kElements);
  for (int64_t i = 0; i < kElements; ++i) {
    long double sum = 0;
    long double total = 0;
    for (const auto& [values, weight] : replies) {
      sum += static_cast<long double>(values[i]) * weight;
      total += weight;
    }
    truth[i] = sum / total;
  }
  std::string first;
  for (int trial = 0; trial < 20; ++trial) {
    random.Shuffle(replies);
    std::vector<std::pair<ArrayRecord, double>> records;
    for (const auto& [values, weight] : replies) {
      records.push_back({ArrayRecord{{"w", Floats(values)}}, weight});
    }
    ASSERT_OK_AND_ASSIGN(const ArrayRecord mean, MeanOf(records));
    const Array& array = *mean.Find("w");
    if (trial == 0) first = array.bytes();
    ASSERT_EQ(array.bytes(), first);
  }
  const float* mean = reinterpret_cast<const float*>(first.data());
  for (int64_t i = 0; i < kElements; ++i) {
    const float want = static_cast<float>(truth[i]);
    EXPECT_LE(std::fabs(mean[i] - want),
              std::nextafter(std::fabs(want), INFINITY) - std::fabs(want));
  }
}

// The usual float loop gives 0 in one order and 1 in the other.
TEST(WeightedMeanTest, ValuesOfOtherSizesInLaterRepliesChangeNoBits) {
  // The first is of one size; one that is finer, one that is larger and one that is both come at
  // every place in the order.
  constexpr int64_t kElements = 700;
  std::vector<std::pair<ArrayRecord, double>> replies;
  for (const auto& [exponent, spread, weight] :
       {std::tuple(0, 1, 3.0), std::tuple(-70, 1, 1.0), std::tuple(90, 1, 0.1),
        std::tuple(-40, 120, 1e9), std::tuple(0, 4, 7.0)}) {
    Random random(3, {static_cast<uint64_t>(exponent + 100), static_cast<uint64_t>(spread)});
    std::vector<float> values(kElements);
    for (float& value : values) {
      const int size = exponent + static_cast<int>(random.Below(spread));
      value = static_cast<float>(std::ldexp(random.Normal(), size));
    }
    replies.push_back({ArrayRecord{{"w", Floats(values)}}, weight});
  }
  std::sort(replies.begin(), replies.end(),
            [](const auto& a, const auto& b) { return a.second < b.second; });
  const absl::StatusOr<ArrayRecord> first = MeanOf(replies);
  ASSERT_THAT(first, IsOk());
  int orders = 1;
  const auto by_weight = [](const auto& a, const auto& b) { return a.second < b.second; };
  for (; std::next_permutation(replies.begin(), replies.end(), by_weight); ++orders) {
    EXPECT_THAT(MeanOf(replies), IsOkAndHolds(*first));
  }
  EXPECT_EQ(orders, 120);
}

TEST(WeightedMeanTest, ASumThatIsHalfWayIsRoundedByWhatLiesFarBelow) {
  // In doubles: 2^53 + 1 is half way between two numbers; a trace of either sign decides.
  const auto doubles = [](double x) {
    return ArrayRecord{{"w", ArrayOf<double>(DType::kFloat64, {x})}};
  };
  for (const double trace : {0x1p-90, -0x1p-90, 0.0}) {
    const double expected = trace > 0 ? 0x1p53 + 2 : 0x1p53;
    EXPECT_THAT(
        MeanOf({{doubles(0x1p53), 1}, {doubles(1), 1}, {doubles(trace), 1}, {doubles(0), 1}}),
        IsOkAndHolds(doubles(expected / 4)))
        << trace;
  }
}

TEST(WeightedMeanTest, CancellationLosesNothing) {
  const ArrayRecord big = {{"w", Floats({1e30f})}};
  const ArrayRecord one = {{"w", Floats({1e-20f})}};
  const ArrayRecord negative = {{"w", Floats({-1e30f})}};
  const ArrayRecord want = {{"w", Floats({static_cast<float>(double{1e-20f} / 3)})}};
  EXPECT_THAT(MeanOf({{big, 1}, {one, 1}, {negative, 1}}), IsOkAndHolds(want));
  EXPECT_THAT(MeanOf({{one, 1}, {big, 1}, {negative, 1}}), IsOkAndHolds(want));
}

TEST(WeightedMeanTest, TheWholeFloatRangeAndTheWholeWeightRangeAreExact) {
  const float largest = std::numeric_limits<float>::max();
  const float smallest = std::numeric_limits<float>::denorm_min();
  const ArrayRecord x = {{"w", Floats({largest, -largest, smallest, 0})}};
  for (const double weight : {0x1p-40, 1.0, 0x1p40}) {
    EXPECT_THAT(MeanOf({{x, weight}, {x, weight}}), IsOkAndHolds(x)) << weight;
  }
}

TEST(WeightedMeanTest, EachDtypeKeepsItsKindAndRoundsToEven) {
  const auto mean = [](DType dtype, const auto& x, const auto& y) {
    return MeanOf(
        {{ArrayRecord{{"w", ArrayOf(dtype, x)}}, 1}, {ArrayRecord{{"w", ArrayOf(dtype, y)}}, 1}});
  };
  using I8 = std::vector<int8_t>;
  using I64 = std::vector<int64_t>;
  using U16 = std::vector<uint16_t>;
  EXPECT_THAT(mean(DType::kInt8, I8{1, 3, -128, -1}, I8{2, 4, -127, -2}),
              IsOkAndHolds(ArrayRecord{{"w", ArrayOf(DType::kInt8, I8{2, 4, -128, -2})}}));
  EXPECT_THAT(
      mean(DType::kInt64, I64{(int64_t{1} << 52) + 1}, I64{(int64_t{1} << 52) + 3}),
      IsOkAndHolds(ArrayRecord{{"w", ArrayOf(DType::kInt64, I64{(int64_t{1} << 52) + 2})}}));
  EXPECT_THAT(mean(DType::kUInt16, U16{65535, 0}, U16{65535, 65535}),
              IsOkAndHolds(ArrayRecord{{"w", ArrayOf(DType::kUInt16, U16{65535, 32768})}}));
  // 1 and 1 + 2^-10 (the next half): the tie goes to the even one; subnormals 1 and 4 units: 2.5 ->
  // 2; the largest half stays.
  EXPECT_THAT(
      mean(DType::kFloat16, U16{0x3c00, 1, 0x7bff, 0x83ff}, U16{0x3c01, 4, 0x7bff, 0x8401}),
      IsOkAndHolds(ArrayRecord{{"w", ArrayOf(DType::kFloat16, U16{0x3c00, 2, 0x7bff, 0x8400})}}));
  EXPECT_THAT(mean(DType::kBFloat16, U16{0x3f81, 0x3f80}, U16{0x3f82, 0xbf80}),
              IsOkAndHolds(ArrayRecord{{"w", ArrayOf(DType::kBFloat16, U16{0x3f82, 0})}}));
  using F64 = std::vector<double>;
  EXPECT_THAT(mean(DType::kFloat64, F64{1, 1e150}, F64{1 + 0x1p-51, -1e150}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'w' is too large")));
  EXPECT_THAT(mean(DType::kFloat64, F64{1, 1e40}, F64{1 + 0x1p-51, -1e40}),
              IsOkAndHolds(ArrayRecord{{"w", ArrayOf(DType::kFloat64, F64{1 + 0x1p-52, 0})}}));
}

TEST(WeightedMeanTest, BooleansStayAsTheyAreAndAnythingElseIsRefused) {
  const ArrayRecord mask = {{"mask", ArrayOf(DType::kBool, std::vector<char>{1, 0})}};
  const ArrayRecord other = {{"mask", ArrayOf(DType::kBool, std::vector<char>{1, 1})}};
  EXPECT_THAT(MeanOf({{mask, 1}, {mask, 2}}), IsOkAndHolds(mask));
  EXPECT_THAT(MeanOf({{mask, 1}, {other, 2}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'mask' has booleans")));
}

TEST(WeightedMeanTest, EmptyAndScalarArraysAreArraysToo) {
  const ArrayRecord x = {{"none", Array()}, {"one", Array::FromFloats({}, std::vector<float>{2})}};
  EXPECT_THAT(MeanOf({{x, 1}, {x, 1}}), IsOkAndHolds(x));
}

struct Hostile {
  std::string name;
  ArrayRecord arrays;
  double weight;
  std::string message;
};

class HostileContributionTest : public ::testing::TestWithParam<Hostile> {};

TEST_P(HostileContributionTest, IsRefusedAndLeavesTheAggregateAlone) {
  const std::unique_ptr<Aggregator> aggregator = NewWeightedMean(Adapter());
  ASSERT_THAT(aggregator->Add({1, Adapter(), 2}), IsOk());
  EXPECT_THAT(aggregator->Add({77, GetParam().arrays, GetParam().weight}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("node 77"), HasSubstr(GetParam().message))));
  ASSERT_THAT(aggregator->Add({2, Adapter(), 1}), IsOk());
  EXPECT_EQ(aggregator->num_added(), 2);
  EXPECT_THAT(std::move(*aggregator).TakeResult(), IsOkAndHolds(Adapter()));
}

ArrayRecord WithB(Array b) {
  ArrayRecord arrays = Adapter();
  arrays.Set("b", std::move(b));
  return arrays;
}

std::vector<Hostile> HostileContributions() {
  const Array a = *Adapter().Find("a");
  const Array b = *Adapter().Find("b");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  return {
      {"MissingKey", {{"a", a}}, 1, "lacks tensor 'b'"},
      {"ExtraKey", {{"a", a}, {"b", b}, {"c", b}}, 1, "unknown tensor 'c'"},
      {"RenamedKey", {{"a", a}, {"x\n", b}}, 1, "lacks tensor 'b'"},
      {"UnprintableKey", {{"a", a}, {"b", b}, {"c\n\x1b", b}}, 1, "unknown tensor 'c\\n\\x1b'"},
      {"OtherShape", WithB(Floats({1, 2, 3})), 1, "'b' has shape [3], not [2]"},
      {"Broadcastable", WithB(Floats({1})), 1, "'b' has shape [1], not [2]"},
      {"Transposable", WithB(Array::FromFloats({2, 1}, std::vector<float>{1, 2})), 1,
       "'b' has shape"},
      {"OtherDtype", WithB(Array::FromDoubles({2}, std::vector<double>{1, 2})), 1,
       "'b' has dtype float64, not float32"},
      {"Nan", WithB(Floats({1, nan})), 1, "'b' has NaN or infinity at index 1"},
      {"Infinity", WithB(Floats({-INFINITY, nan})), 1, "'b' has NaN or infinity at index 0"},
      {"NegativeWeight", Adapter(), -1, "weight must be positive and finite: -1"},
      {"ZeroWeight", Adapter(), 0, "weight must be positive and finite: 0"},
      {"NanWeight", Adapter(), kNan, "weight must be positive and finite: nan"},
      {"InfiniteWeight", Adapter(), kInf, "weight must be positive and finite: inf"},
      {"HugeWeight", Adapter(), 0x1p62, "weight is outside"},
      {"TinyWeight", Adapter(), 1e-300, "weight is outside"},
  };
}

INSTANTIATE_TEST_SUITE_P(All, HostileContributionTest, ::testing::ValuesIn(HostileContributions()),
                         [](const auto& info) { return info.param.name; });

TEST(WeightedMeanTest, TensorsAreMatchedByNameInAnyOrder) {
  const std::unique_ptr<Aggregator> aggregator = NewWeightedMean(Adapter());
  const ArrayRecord reordered = {{"b", *Adapter().Find("b")}, {"a", *Adapter().Find("a")}};
  ASSERT_THAT(aggregator->Add({1, reordered, 2}), IsOk());
  ASSERT_THAT(aggregator->Add({2, Adapter(), 1}), IsOk());
  EXPECT_THAT(std::move(*aggregator).TakeResult(), IsOkAndHolds(Adapter()));
}

TEST(WeightedMeanTest, ANarrowerFloatTypeIsWidenedExactly) {
  const ArrayRecord model = {{"h", Array::FromDoubles({2}, std::vector<double>{0, 0})}};
  const std::unique_ptr<Aggregator> aggregator = NewWeightedMean(model);
  ASSERT_THAT(aggregator->Add({1, {{"h", Floats({0.1f, 3})}}, 1}), IsOk());
  const ArrayRecord half = {{"h", ArrayOf(DType::kFloat16, std::vector<uint16_t>{0, 0x3c00})}};
  ASSERT_THAT(aggregator->Add({2, half, 1}), IsOk());
  const ArrayRecord want = {
      {"h", Array::FromDoubles({2}, std::vector<double>{double{0.1f} / 2, 2})}};
  EXPECT_THAT(std::move(*aggregator).TakeResult(), IsOkAndHolds(want));
}

// Takes stacked adapters of any rank: what Check is virtual for.
class StackedSum final : public Aggregator {
 public:
  using Aggregator::Aggregator;

 private:
  absl::Status Check(const Contribution& contribution) const override {
    const Array* a = contribution.arrays.Find("a");
    if (a == nullptr || a->shape().size() != 2 || a->shape()[1] != 2) {
      return absl::InvalidArgumentError("'a' must have two columns");
    }
    return absl::OkStatus();
  }
  absl::Status DoAdd(const Contribution& contribution) override {
    rows_ += contribution.arrays.Find("a")->shape()[0];
    return absl::OkStatus();
  }
  absl::StatusOr<ArrayRecord> DoTakeResult() override {
    return ArrayRecord{{"rows", Array::FromDoubles({1}, {{static_cast<double>(rows_)}})}};
  }

  int64_t rows_ = 0;
};

TEST(AggregatorTest, ASubclassMayCheckAnotherForm) {
  StackedSum sum(Adapter());
  const auto rows = [](int64_t n) {
    return ArrayRecord{{"a", Array::FromFloats({n, 2}, std::vector<float>(2 * n))}};
  };
  EXPECT_THAT(sum.Add({1, rows(3), 1}), IsOk());
  EXPECT_THAT(sum.Add({2, rows(5), 1}), IsOk());
  EXPECT_THAT(sum.Add({3, {{"b", Floats({1})}}, 1}), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(sum.Add({4, rows(1), -1}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("weight")));
  EXPECT_EQ(sum.num_added(), 2);
  EXPECT_EQ(std::move(sum).TakeResult()->Find("rows")->ToDoubles()[0], 8);
}

TEST(WeightedMeanTest, NonFiniteHalvesAreRefused) {
  for (const auto& [dtype, bits] : {std::pair<DType, uint16_t>{DType::kFloat16, 0xfc00},
                                    {DType::kFloat16, 0x7e00},
                                    {DType::kBFloat16, 0x7f80},
                                    {DType::kBFloat16, 0xffc0}}) {
    const ArrayRecord good = {{"h", ArrayOf(dtype, std::vector<uint16_t>{0, 1, 2})}};
    const ArrayRecord bad = {{"h", ArrayOf(dtype, std::vector<uint16_t>{0, 1, bits})}};
    EXPECT_THAT(MeanOf({{good, 1}, {bad, 1}}),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("index 2")));
  }
}

}  // namespace
}  // namespace fedumm
