#include "record/form.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace fedumm {
namespace {

using ::testing::ElementsAre;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr DType kAll[] = {DType::kBool,   DType::kInt8,    DType::kInt16,    DType::kInt32,
                          DType::kInt64,  DType::kUInt8,   DType::kUInt16,   DType::kUInt32,
                          DType::kUInt64, DType::kFloat16, DType::kBFloat16, DType::kFloat32,
                          DType::kFloat64};

Array Zeros(DType dtype, std::vector<int64_t> shape) {
  int64_t n = 1;
  for (const int64_t dim : shape) n *= dim;
  return *Array::Create(dtype, std::move(shape), std::string(n * ElementSize(dtype), '\0'));
}

TEST(FormTest, FloatsAreTheFourFloatTypes) {
  std::vector<DType> floats;
  for (const DType dtype : kAll) {
    if (IsFloat(dtype)) floats.push_back(dtype);
  }
  EXPECT_THAT(floats,
              ElementsAre(DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64));
}

TEST(FormTest, SameFormComparesDTypeAndShape) {
  const Array a = Zeros(DType::kFloat32, {2, 3});
  EXPECT_TRUE(SameForm(a, Zeros(DType::kFloat32, {2, 3})));
  EXPECT_FALSE(SameForm(a, Zeros(DType::kFloat32, {3, 2})));
  EXPECT_FALSE(SameForm(a, Zeros(DType::kFloat32, {6})));
  EXPECT_FALSE(SameForm(a, Zeros(DType::kFloat64, {2, 3})));
  EXPECT_TRUE(SameShape(a, Zeros(DType::kFloat64, {2, 3})));
}

TEST(FormTest, AFloatTypeWidensIntoALargerOneOnly) {
  EXPECT_TRUE(WidensExactly(DType::kFloat16, DType::kFloat32));
  EXPECT_TRUE(WidensExactly(DType::kBFloat16, DType::kFloat32));
  EXPECT_TRUE(WidensExactly(DType::kFloat32, DType::kFloat64));
  EXPECT_TRUE(WidensExactly(DType::kFloat16, DType::kFloat16));
  EXPECT_FALSE(WidensExactly(DType::kFloat16, DType::kBFloat16));
  EXPECT_FALSE(WidensExactly(DType::kBFloat16, DType::kFloat16));
  EXPECT_FALSE(WidensExactly(DType::kFloat64, DType::kFloat32));
  EXPECT_FALSE(WidensExactly(DType::kInt8, DType::kFloat64));
  EXPECT_FALSE(WidensExactly(DType::kFloat16, DType::kInt64));
}

TEST(FormTest, FirstNonFiniteGivesTheIndexInEveryFloatType) {
  for (const DType dtype : kAll) {
    for (const int64_t n : {1, 1023, 1024, 1025, 5000}) {
      std::vector<double> values(n, 1);
      const Array form = Zeros(dtype, {n});
      EXPECT_EQ(FirstNonFinite(Array::FromDoublesLike(form, values)), -1);
      for (const int64_t bad : {n - 1, n / 2, int64_t{0}}) {
        values[bad] = bad % 2 == 0 ? kNan : -kInf;
        EXPECT_EQ(FirstNonFinite(Array::FromDoublesLike(form, values)), IsFloat(dtype) ? bad : -1);
      }
    }
  }
  EXPECT_EQ(FirstNonFinite(Array()), -1);
}

TEST(FormTest, FromDoublesLikeTakesDTypeAndShapeOfTheForm) {
  const std::vector<double> values = {0, 1, 0, 1, 1, 0};
  for (const DType dtype : kAll) {
    const Array form = Zeros(dtype, {2, 3});
    const Array array = Array::FromDoublesLike(form, values);
    EXPECT_TRUE(SameForm(array, form));
    EXPECT_EQ(array.ToDoubles(), values);
  }
}

TEST(FormTest, FromDoublesLikeRoundsOnceWithTiesToEven) {
  const auto like = [](DType dtype, std::vector<double> values) {
    const auto n = static_cast<int64_t>(values.size());
    return Array::FromDoublesLike(Zeros(dtype, {n}), values).ToDoubles();
  };
  EXPECT_THAT(like(DType::kFloat32, {1 + 0x1p-24, 1 + 0x3p-24}), ElementsAre(1, 1 + 0x1p-22));
  EXPECT_THAT(like(DType::kFloat16, {1 + 0x1p-11, 1 + 0x3p-11}), ElementsAre(1, 1 + 0x1p-9));
  // Two roundings, over float32, would give 1.
  EXPECT_THAT(like(DType::kBFloat16, {1 + 0x1p-8 + 0x1p-40}), ElementsAre(1 + 0x1p-7));
  EXPECT_THAT(like(DType::kInt32, {0.5, 1.5, -2.5}), ElementsAre(0, 2, -2));
}

TEST(FormTest, FromDoublesLikeTakesValuesOutOfRangeAsDocumented) {
  const auto like = [](DType dtype, double value) {
    return Array::FromDoublesLike(Zeros(dtype, {1}), {{value}}).ToDoubles()[0];
  };
  EXPECT_EQ(like(DType::kFloat32, 1e300), kInf);
  EXPECT_EQ(like(DType::kFloat16, -70'000), -kInf);
  EXPECT_TRUE(std::isnan(like(DType::kFloat16, kNan)));
  EXPECT_TRUE(std::isnan(like(DType::kBFloat16, kNan)));
  EXPECT_EQ(like(DType::kInt8, 200), 127);
  EXPECT_EQ(like(DType::kUInt16, -3), 0);
  EXPECT_EQ(like(DType::kInt64, kNan), 0);
  EXPECT_EQ(like(DType::kBool, -0.5), 1);
}

}  // namespace
}  // namespace fedumm
