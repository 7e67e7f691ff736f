#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "fedumm/kernels.h"
#include "lora_fixture.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::kernels {
namespace {

using ::fedumm::testing::LoraCase;
using ::fedumm::testing::RandomFloats;
using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::Pointwise;

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

TEST(LoraCpuTest, HandWorkedNumbers) {
  // m = 2, k = 3, n = 2, r = 1.
  const std::vector<float> x = {1, 2, 3, -1, 0, 4};
  const std::vector<float> a = {2, -1, 1};
  const std::vector<float> b = {3, -2};
  std::vector<float> s(2, kPoison);
  LoraShrinkCpu(2, 3, 1, 2, x.data(), a.data(), s.data());
  EXPECT_THAT(s, ElementsAre(6, 4));  // 2 * (2 - 2 + 3), 2 * (-2 + 4)
  std::vector<float> y = {10, 20, 30, 40};
  LoraExpandAddCpu(2, 2, 1, s.data(), b.data(), y.data());
  EXPECT_THAT(y, ElementsAre(28, 8, 42, 32));
  const std::vector<float> dy = {1, 2, 3, -1};
  std::vector<float> ds(2, kPoison);
  LoraGradSCpu(2, 2, 1, 2, dy.data(), b.data(), ds.data());
  EXPECT_THAT(ds, ElementsAre(-2, 22));  // 2 * (3 - 4), 2 * (9 + 2)
  std::vector<float> db(2, kPoison);
  LoraGradBCpu(2, 2, 1, dy.data(), s.data(), db.data());
  EXPECT_THAT(db, ElementsAre(18, 8));  // 6 + 12, 12 - 4
  std::vector<float> da(3, kPoison);
  LoraGradACpu(2, 3, 1, ds.data(), x.data(), da.data());
  EXPECT_THAT(da, ElementsAre(-24, -4, 82));  // -2 - 22, -4, -6 + 88
  std::vector<float> dx(6, 1);
  LoraGradXAddCpu(2, 3, 1, ds.data(), a.data(), dx.data());
  EXPECT_THAT(dx, ElementsAre(-3, 3, -1, 45, -21, 23));
}

class LoraCpuSizesTest : public ::testing::TestWithParam<testing::LoraSize> {};

TEST_P(LoraCpuSizesTest, EveryProductMatchesPlainLoopsInDouble) {
  const LoraCase c(GetParam());
  const auto near = [](const std::vector<float>& want) {
    return Pointwise(FloatNear(1e-4f), want);
  };
  std::vector<float> s(c.m * c.r, kPoison);
  LoraShrinkCpu(c.m, c.k, c.r, c.scale, c.x.data(), c.a.data(), s.data());
  EXPECT_THAT(s, near(c.WantS()));
  std::vector<float> y = c.y;
  LoraExpandAddCpu(c.m, c.n, c.r, c.s.data(), c.b.data(), y.data());
  EXPECT_THAT(y, near(c.WantY()));
  std::vector<float> ds(c.m * c.r, kPoison);
  LoraGradSCpu(c.m, c.n, c.r, c.scale, c.dy.data(), c.b.data(), ds.data());
  EXPECT_THAT(ds, near(c.WantGradS()));
  std::vector<float> db(c.n * c.r, kPoison);
  LoraGradBCpu(c.m, c.n, c.r, c.dy.data(), c.s.data(), db.data());
  EXPECT_THAT(db, near(c.WantGradB()));
  std::vector<float> da(c.r * c.k, kPoison);
  LoraGradACpu(c.m, c.k, c.r, c.ds.data(), c.x.data(), da.data());
  EXPECT_THAT(da, near(c.WantGradA()));
  std::vector<float> dx = c.dx;
  LoraGradXAddCpu(c.m, c.k, c.r, c.ds.data(), c.a.data(), dx.data());
  EXPECT_THAT(dx, near(c.WantGradX()));
}

INSTANTIATE_TEST_SUITE_P(Sizes, LoraCpuSizesTest, ::testing::ValuesIn(testing::kLoraSizes),
                         ::testing::PrintToStringParamName());

// The gradients of loss = sum(dy * (s * x * a^T * b^T)), as the layer composes them, against
// central differences of the forward pass.
TEST(LoraCpuTest, BackwardMatchesFiniteDifferences) {
  constexpr int64_t m = 5, k = 7, n = 3, r = 2;
  constexpr float kScale = 0.5f;
  std::vector<float> x = RandomFloats(m * k, 1);
  std::vector<float> a = RandomFloats(r * k, 2);
  std::vector<float> b = RandomFloats(n * r, 3);
  const std::vector<float> dy = RandomFloats(m * n, 4);
  const auto loss = [&] {
    std::vector<float> s(m * r), y(m * n, 0.0f);
    LoraShrinkCpu(m, k, r, kScale, x.data(), a.data(), s.data());
    LoraExpandAddCpu(m, n, r, s.data(), b.data(), y.data());
    double sum = 0;
    for (int64_t i = 0; i < m * n; ++i) sum += double{dy[i]} * y[i];
    return sum;
  };
  std::vector<float> s(m * r), ds(m * r), db(n * r), da(r * k), dx(m * k, 0.0f);
  LoraShrinkCpu(m, k, r, kScale, x.data(), a.data(), s.data());
  LoraGradSCpu(m, n, r, kScale, dy.data(), b.data(), ds.data());
  LoraGradBCpu(m, n, r, dy.data(), s.data(), db.data());
  LoraGradACpu(m, k, r, ds.data(), x.data(), da.data());
  LoraGradXAddCpu(m, k, r, ds.data(), a.data(), dx.data());
  const auto check = [&](std::vector<float>& input, const std::vector<float>& gradient) {
    for (size_t i = 0; i < input.size(); ++i) {
      const float kept = input[i];
      input[i] = kept + 0.125f;
      const double above = loss();
      input[i] = kept - 0.125f;
      const double below = loss();
      input[i] = kept;
      EXPECT_NEAR(gradient[i], (above - below) / 0.25, 1e-4)
          << i;  // the loss is linear in each input
    }
  };
  check(x, dx);
  check(a, da);
  check(b, db);
}

TEST(LoraCudaTest, WithoutADeviceTheBuildStillAnswers) {
  if (CudaDeviceCount() > 0) GTEST_SKIP() << "a device is there";
  const float x = 1;
  float s = 0;
  EXPECT_FALSE(LoraShrinkCuda(1, 1, 1, 1.0f, &x, &x, &s, nullptr).ok());
}

}  // namespace
}  // namespace fedumm::kernels
