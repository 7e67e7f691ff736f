#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

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

TEST(FixedClippingMod, AReplyOfAnotherShapeOrDtypeIsAnError) {
  const Message instruction = Model({1, 2});
  const RecordDict turned = {{"arrays", ArrayRecord{{"w", Array::FromFloats({2, 1}, {{1, 2}})}}}};
  EXPECT_THAT(Clip(1, instruction, turned),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("arrays/w: the reply has it as float32[2,1], the instruction as "
                                 "float32[2]")));
  const RecordDict wide = {{"arrays", ArrayRecord{{"w", Array::FromDoubles({2}, {{1, 2}})}}}};
  EXPECT_THAT(Clip(1, instruction, wide),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("float64[2]")));
}

TEST(FixedClippingMod, RefusesAnUpdateThatIsNotFinite) {
  EXPECT_THAT(Clip(1, Model({1}), *Model({std::numeric_limits<float>::quiet_NaN()}).content),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(FixedClippingMod, RefusesANormThatIsNotPositive) {
  EXPECT_THAT(Clip(0, Model({1}), *Model({1}).content),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0")));
}

// What MessageClippingMod makes of a reply with these values and num-examples, if the instruction's
// config is `config`.
absl::StatusOr<RecordDict> ClipByMessage(ConfigRecord config, std::vector<float> values,
                                         const char* type = "train") {
  Message instruction = Model({1, 1});
  instruction.metadata.message_type = type;
  instruction.content->Set("config", std::move(config));
  RecordDict reply = *Model(std::move(values)).content;
  reply.Set("metrics", MetricRecord{{"num-examples", int64_t{3}}});
  Context context;
  return MessageClippingMod()(
      instruction, context,
      [&](const Message&, Context&) -> absl::StatusOr<RecordDict> { return reply; });
}

TEST(MessageClippingMod, ClipsToTheNormOfTheMessageAndSaysSo) {
  const auto reply = ClipByMessage({{"server-round", int64_t{1}}, {"clipping_norm", 2.5}}, {4, 5});
  ASSERT_THAT(reply, IsOk());
  EXPECT_NEAR(Weights(reply)[0], 2.5, 1e-6);
  EXPECT_NEAR(Weights(reply)[1], 3, 1e-6);
  EXPECT_EQ(*reply->FindMetrics("metrics"),
            (MetricRecord{{"num-examples", int64_t{3}}, {"norm_bit", int64_t{1}}}));
}

TEST(MessageClippingMod, AnUpdateWithinTheNormStaysAndItsBitIsZero) {
  const auto reply = ClipByMessage({{"clipping_norm", int64_t{5}}}, {4, 5});
  ASSERT_THAT(reply, IsOk());
  EXPECT_EQ(Weights(reply), (std::vector<double>{4, 5}));
  EXPECT_EQ(NumberOr(*reply->FindMetrics("metrics"), "norm_bit", -1), 0);
}

TEST(MessageClippingMod, WithoutTheKeyOrTrainingTheReplyStaysAsItIs) {
  for (const auto& reply : {ClipByMessage({{"server-round", int64_t{1}}}, {4, 5}),
                            ClipByMessage({{"clipping_norm", 0.1}}, {4, 5}, "evaluate")}) {
    ASSERT_THAT(reply, IsOk());
    EXPECT_EQ(Weights(reply), (std::vector<double>{4, 5}));
    EXPECT_FALSE(reply->FindMetrics("metrics")->contains("norm_bit"));
  }
}

TEST(MessageClippingMod, ANormThatIsNotAPositiveNumberIsAnError) {
  for (const ConfigValue& norm : std::vector<ConfigValue>{
           0.0, -1.0, std::numeric_limits<double>::quiet_NaN(), std::string("small")}) {
    EXPECT_THAT(ClipByMessage({{"clipping_norm", norm}}, {4, 5}),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("clipping_norm")));
  }
}

TEST(ModsFromNames, GivesTheModsInOrder) {
  const auto mods = ModsFromNames({"arrays-size", "fixed-clipping"}, {{"mod.clipping-norm", 2.5}});
  ASSERT_THAT(mods, IsOk());
  ASSERT_EQ(mods->size(), 2);
  Context context;
  const auto reply = (*mods)[1](Model({1, 1}), context,
                                [](const Message&, Context&) -> absl::StatusOr<RecordDict> {
                                  return *Model({4, 5}).content;
                                });
  EXPECT_NEAR(Weights(reply)[0], 2.5, 1e-6);
  EXPECT_EQ(ModsFromNames({}, {})->size(), 0);
}

TEST(ModsFromNames, AnUnknownNameAndAMissingSettingAreNamed) {
  EXPECT_THAT(ModsFromNames({"clipping"}, {}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("'clipping': known are fixed-clipping, arrays-size")));
  EXPECT_THAT(ModsFromNames({"fixed-clipping"}, {}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("mod.clipping-norm")));
  EXPECT_THAT(ModsFromNames({}, {{"mod.clipping-norm", -1.0}}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("mod.clipping-norm")));
}

TEST(ModsFromNames, ASettingThatNoModUsesIsNamed) {
  EXPECT_THAT(ModsFromNames({"arrays-size"}, {{"mod.clipping-norm", 1.0}}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("'mod.clipping-norm' is a setting of the mod 'fixed-clipping'")));
  EXPECT_THAT(ModsFromNames({"arrays-size"}, {{"mod.clipping-norm", 0.0}}), IsOk());
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
