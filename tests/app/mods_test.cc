#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fedumm/mod.h"
#include "tests/testing/status_matchers.h"

namespace fedumm {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::HasSubstr;

Message Model(std::vector<float> values) {
  const auto size = static_cast<int64_t>(values.size());
  return {.content = RecordDict{{"arrays", ArrayRecord{{"w", Array::FromFloats({size}, values)}}}}};
}

// What comes out of clipping a reply with these values.
absl::StatusOr<RecordDict> Clip(double norm, const Message& instruction, RecordDict reply) {
  Context context;
  return FixedClippingMod(norm)(
      instruction, context,
      [&](const Message&, Context&) -> absl::StatusOr<RecordDict> { return reply; });
}

std::vector<double> Weights(const absl::StatusOr<RecordDict>& reply) {
  return reply->FindArrays("arrays")->Find("w")->ToDoubles();
}

TEST(FixedClippingMod, LeavesASmallUpdateAlone) {
  const auto reply = Clip(5, Model({1, 1}), *Model({4, 5}).content);
  ASSERT_THAT(reply, IsOk());
  EXPECT_EQ(Weights(reply), (std::vector<double>{4, 5}));
}

TEST(FixedClippingMod, ScalesALargeUpdateAndKeepsItsDirection) {
  const auto reply = Clip(2.5, Model({1, 1}), *Model({4, 5}).content);
  ASSERT_THAT(reply, IsOk());
  EXPECT_NEAR(Weights(reply)[0], 2.5, 1e-6);
  EXPECT_NEAR(Weights(reply)[1], 3, 1e-6);
}

TEST(FixedClippingMod, NeverExceedsTheNormAfterRounding) {
  std::vector<float> before;
  std::vector<float> after;
  for (int i = 0; i < 1000; ++i) {
    before.push_back(1000.0f + static_cast<float>(std::sin(i)));
    after.push_back(before.back() + static_cast<float>(std::cos(i)) * 1e-2f);
  }
  const auto reply = Clip(0.1, Model(before), *Model(after).content);
  ASSERT_THAT(reply, IsOk());
  const std::vector<double> clipped = Weights(reply);
  double squares = 0;
  for (size_t i = 0; i < before.size(); ++i) squares += std::pow(clipped[i] - before[i], 2);
  EXPECT_LE(std::sqrt(squares), 0.1);
  EXPECT_GT(std::sqrt(squares), 0.09);
}

TEST(FixedClippingMod, RefusesAnArrayThatTheInstructionLacks) {
  const RecordDict reply = {{"arrays", ArrayRecord{{"v", Array::FromFloats({1}, {{9}})}}}};
  EXPECT_THAT(Clip(1, Model({1}), reply),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("arrays/v")));
}

TEST(FixedClippingMod, RefusesAnUpdateThatIsNotFinite) {
  EXPECT_THAT(Clip(1, Model({1}), *Model({std::numeric_limits<float>::quiet_NaN()}).content),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(FixedClippingMod, RefusesANormThatIsNotPositive) {
  EXPECT_THAT(Clip(0, Model({1}), *Model({1}).content),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0")));
}

TEST(ArraysSizeMod, ReturnsTheReplyAsItIs) {
  Context context;
  const Message message = Model({1, 2});
  const auto reply = ArraysSizeMod()(
      message, context,
      [](const Message& m, Context&) -> absl::StatusOr<RecordDict> { return *m.content; });
  ASSERT_THAT(reply, IsOk());
  EXPECT_EQ(*reply, *message.content);
}

}  // namespace
}  // namespace fedumm
