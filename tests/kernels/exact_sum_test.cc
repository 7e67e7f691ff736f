#include "kernels/exact_sum.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"

namespace fedumm::kernels {
namespace {

// The parts of one value on all grids.
std::array<double, kNumGrids> Split(double value) {
  std::array<double, kNumGrids> parts = {};
  int grid = TopGrid(std::fabs(value));
  while (AddToGrid(1, grid, &value, &parts[grid - kMinGrid]) && grid > kMinGrid) --grid;
  return parts;
}

TEST(ExactSumTest, ScaleMultipliesAndFindsTheLargestMagnitude) {
  for (const int64_t n : {0, 1, 7, 8, 9, 19, 1024}) {
    std::vector<float> x(n);
    for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(i % 2 == 0 ? i : -i) / 8;
    std::vector<double> values(n, std::numeric_limits<double>::quiet_NaN());
    EXPECT_EQ(ScaleToDouble(n, 3, x.data(), values.data()), n == 0 ? 0 : 3.0 * (n - 1) / 8);
    for (int64_t i = 0; i < n; ++i) EXPECT_EQ(values[i], 3.0 * x[i]);
  }
}

TEST(ExactSumTest, TopGridIsTheFirstWhoseRangeHoldsTheValue) {
  EXPECT_EQ(TopGrid(1), 0);
  EXPECT_EQ(TopGrid(std::nextafter(1.0, 0.0)), -1);
  EXPECT_EQ(TopGrid(0x1p33), 0);
  EXPECT_EQ(TopGrid(0x1p34), 1);
  EXPECT_EQ(TopGrid(std::nextafter(0x1p34, 0.0)), 0);
  EXPECT_EQ(TopGrid(0x1p-34), -1);
  EXPECT_EQ(TopGrid(0x1p-35), -2);
  EXPECT_EQ(TopGrid(0), kMinGrid);
  EXPECT_EQ(TopGrid(0x1p-1000), kMinGrid);
  EXPECT_EQ(TopGrid(std::nextafter(kMaxValue, 0.0)), kMaxGrid);
}

TEST(ExactSumTest, PartsAreMultiplesOfTheirStepAndAddUpToTheValue) {
  Random random(1);
  for (int trial = 0; trial < 2000; ++trial) {
    const double value = std::ldexp(random.Normal(), static_cast<int>(random.Below(380)) - 190);
    const auto parts = Split(value);
    double total = 0;
    for (int i = kNumGrids - 1; i >= 0; --i) {
      const double steps = std::ldexp(parts[i], -kGridBits * (i + kMinGrid));
      EXPECT_EQ(steps, std::nearbyint(steps)) << value;
      EXPECT_LE(std::fabs(steps), 0x1p34) << value;
      total += parts[i];
    }
    EXPECT_EQ(total, value);
  }
}

TEST(ExactSumTest, SumsOfOddLengthsDoNotDependOnTheOrder) {
  constexpr int kVectors = 37;
  for (const int64_t n : {1, 3, 4, 19, 111}) {
    Random random(2, {static_cast<uint64_t>(n)});
    std::vector<std::vector<double>> vectors(kVectors, std::vector<double>(n));
    for (auto& vector : vectors) {
      for (double& value : vector) {
        value = std::ldexp(random.Normal(), static_cast<int>(random.Below(60)) - 30);
      }
    }
    std::vector<double> first;
    for (int trial = 0; trial < 5; ++trial) {
      random.Shuffle(vectors);
      std::vector<double> sums(n * kNumGrids);
      for (std::vector<double> values : vectors) {
        double largest = 0;
        for (const double value : values) largest = std::max(largest, std::fabs(value));
        int grid = TopGrid(largest);
        while (AddToGrid(n, grid, values.data(), &sums[(grid - kMinGrid) * n])) --grid;
      }
      if (trial == 0) first = sums;
      EXPECT_EQ(sums, first) << n;
    }
  }
}

TEST(ExactSumTest, AWindowAddsWholeStepsOfEitherSignUpToItsBound) {
  const std::vector<double> values = {
      0, 1, -1, 0x1p11, -0x1p11, 4095, -4097.0, 0x1p52 + 1, -0x1p53 + 1, 0x1p61, -0x1p61 + 0x1p10};
  for (const int exponent : {0, -130, 90}) {
    std::vector<double> scaled = values;
    for (double& value : scaled) value = std::ldexp(value, exponent);
    std::vector<int64_t> sums(values.size(), 5);
    ASSERT_TRUE(AddToWindow(std::ssize(values), exponent, scaled.data(), sums.data()));
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(sums[i] - 5, static_cast<int64_t>(values[i])) << i;
    }
  }
}

TEST(ExactSumTest, AWindowTakesNothingIfOneValueIsNoWholeStep) {
  for (const double odd : {0.5, 1 / 3.0, 0x1p-400, 0x1p40 + 0.25}) {
    std::vector<double> values = {3, 0x1p50, -7, 12, odd, 1};
    std::vector<int64_t> sums = {1, 2, 3, 4, 5, 6};
    EXPECT_FALSE(AddToWindow(6, 0, values.data(), sums.data())) << odd;
    EXPECT_EQ(sums, (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  }
}

}  // namespace
}  // namespace fedumm::kernels
