#include "fedumm/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/testing/status_matchers.h"

namespace fedumm {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

const std::vector<Setting>& Table() {
  static const auto& table = *new std::vector<Setting>{
      {.key = "lora.r", .default_value = int64_t{8}, .help = "rank", .min = 1, .max = 256},
      {.key = "train.learning-rate",
       .default_value = 1e-3,
       .help = "AdamW's",
       .min = 0,
       .above_min = true},
      {.key = "train.schedule",
       .default_value = "cosine",
       .help = "of the learning rate",
       .choices = {"cosine", "constant"}},
      {.key = "train.keep-optimizer", .default_value = true, .help = "between rounds"},
  };
  return table;
}

absl::Status Check(const std::string& key, ConfigValue value) {
  return CheckSetting(*FindSetting(Table(), key), value).status();
}

TEST(SettingsTest, AValueOfAnotherTypeOrOutOfRangeIsRejectedByName) {
  EXPECT_THAT(Check("lora.r", int64_t{1}), IsOk());
  EXPECT_THAT(Check("lora.r", int64_t{0}),
              StatusIs(kInvalid, HasSubstr("'lora.r' must be a whole number from 1 to 256: 0")));
  EXPECT_THAT(Check("lora.r", 1.5), StatusIs(kInvalid, HasSubstr("1.5")));
  EXPECT_THAT(Check("lora.r", "8"), StatusIs(kInvalid));
  EXPECT_THAT(Check("lora.r", true), StatusIs(kInvalid));
  EXPECT_THAT(Check("train.learning-rate", 0.0),
              StatusIs(kInvalid, HasSubstr("a number above 0: 0")));
  EXPECT_THAT(Check("train.learning-rate", std::numeric_limits<double>::quiet_NaN()),
              StatusIs(kInvalid));
  EXPECT_THAT(Check("train.schedule", "linear"),
              StatusIs(kInvalid, HasSubstr("one of cosine, constant: linear")));
  EXPECT_THAT(Check("train.keep-optimizer", int64_t{1}), StatusIs(kInvalid));
}

TEST(SettingsTest, WholeNumbersChangeTheirTypeWithoutLoss) {
  EXPECT_EQ(*CheckSetting(Table()[1], int64_t{1}), ConfigValue(1.0));
  EXPECT_EQ(*CheckSetting(Table()[0], uint64_t{4}), ConfigValue(int64_t{4}));
  EXPECT_EQ(*CheckSetting(Table()[0], 4.0), ConfigValue(int64_t{4}));
}

TEST(SettingsTest, MissingKeysTakeTheirDefaultAndAreTold) {
  const auto completed = CompleteSettings(Table(), {{"mine", "x"}, {"train.schedule", "constant"}});
  ASSERT_THAT(completed, IsOk());
  EXPECT_EQ(TextOr(completed->values, "train.schedule", ""), "constant");
  EXPECT_EQ(NumberOr(completed->values, "lora.r", 0), 8);
  EXPECT_EQ(TextOr(completed->values, "mine", ""), "x");
  EXPECT_THAT(completed->filled_in,
              ElementsAre("lora.r", "train.learning-rate", "train.keep-optimizer"));
  EXPECT_THAT(completed->not_in_table, ElementsAre("mine"));
}

TEST(SettingsTest, AMisspeltKeyIsToldTheNearestOne) {
  EXPECT_EQ(DidYouMean(Table(), "train.learnig-rate"), " (did you mean 'train.learning-rate'?)");
  EXPECT_EQ(DidYouMean(Table(), "learnig-rate"), " (did you mean 'train.learning-rate'?)");
  EXPECT_EQ(DidYouMean(Table(), "federation.learning-rate"),
            " (did you mean 'train.learning-rate'?)");
  EXPECT_EQ(DidYouMean(Table(), "something-else-altogether"), "");
  const Setting rank = {.key = "lora.r", .default_value = int64_t{6}};
  EXPECT_EQ(DidYouMean({&rank, 1}, "federation.extra.x"), "");
  EXPECT_EQ(DidYouMean({&rank, 1}, "lora.R"), " (did you mean 'lora.r'?)");
}

}  // namespace
}  // namespace fedumm
