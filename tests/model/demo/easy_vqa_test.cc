#include "fedumm/model/easy_vqa.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "model/demo/small_easy_vqa.h"
#include "testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::StatusIs;

// FEDUMM_EASY_VQA names the data folder; the tests on real pictures are skipped without it.
const EasyVqa* RealData() {
  static const EasyVqa* data = []() -> const EasyVqa* {
    const char* folder = std::getenv("FEDUMM_EASY_VQA");
    if (folder == nullptr || !std::filesystem::exists(std::string(folder) + "/train"))
      return nullptr;
    absl::StatusOr<EasyVqa> loaded = EasyVqa::Load(folder);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return loaded.ok() ? new EasyVqa(*std::move(loaded)) : nullptr;
  }();
  return data;
}

TEST(DetectorTest, SeesEachColorAndShape) {
  for (int color = 0; color < 8; ++color) {
    for (int shape = 0; shape < 3; ++shape) {
      EXPECT_EQ(Detect(DrawShape(kPalette[color], shape, 12, 20, 25)), (Concept{color, shape}))
          << kColors[color] << " " << kShapes[shape];
    }
  }
}

TEST(DetectorTest, SeesNothingInAnEmptyPicture) {
  EXPECT_EQ(Detect(std::vector<uint8_t>(kPictureBytes, 230)), Concept{});
}

TEST(RecentreTest, MovesTheShapeToTheMiddle) {
  const auto moved = Recentre(DrawShape({255, 0, 0}, 1, 3, 30, 20));
  ASSERT_TRUE(moved.has_value());
  EXPECT_EQ(*moved, DrawShape({255, 0, 0}, 1, 22, 22, 20));
}

TEST(RecentreTest, DropsClippedAndTinyShapes) {
  EXPECT_FALSE(Recentre(DrawShape({255, 0, 0}, 1, 0, 30, 20)).has_value());
  EXPECT_FALSE(Recentre(DrawShape({255, 0, 0}, 1, 20, 30, 10)).has_value());
}

TEST(EasyVqaTest, MissingFolderIsNotFound) {
  EXPECT_THAT(EasyVqa::Load("/nonexistent"), StatusIs(absl::StatusCode::kNotFound));
}

class BrokenFolderTest : public ::testing::TestWithParam<const char*> {};

TEST_P(BrokenFolderTest, IsInvalid) {
  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) / "easy_vqa_broken";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder / "train/images");
  std::ofstream(folder / "train/questions.json") << GetParam();
  std::ofstream(folder / "train/images/0.png") << "no picture";
  EXPECT_THAT(EasyVqa::Load(folder), StatusIs(absl::StatusCode::kInvalidArgument));
}
INSTANTIATE_TEST_SUITE_P(Questions, BrokenFolderTest,
                         ::testing::Values("", "{}", "[]", "[1]", R"([["a", "b"]])",
                                           R"([["a", "b", -1]])", R"([["a", "b", 99999999]])",
                                           R"([["a", 1, 0]])", R"([["is it?", "yes", 0]])"));

TEST(EasyVqaTest, UsedQuestionsAreBalancedAndCounted) {
  const EasyVqa* data = RealData();
  if (data == nullptr) GTEST_SKIP() << "FEDUMM_EASY_VQA is not set";
  EXPECT_EQ(data->train.num_pictures(), 4000);
  EXPECT_EQ(data->test.num_pictures(), 1000);
  EXPECT_EQ(data->train.balanced.size(), 14844);
  EXPECT_EQ(data->test.balanced.size(), 3660);
  std::map<std::pair<QuestionType, std::string>, int> count;
  int num_new = 0;
  for (const int64_t i : data->test.balanced) {
    const Question& question = data->test.questions[i];
    ++count[{question.type, question.answer}];
    num_new += question.is_new;
  }
  EXPECT_NEAR(num_new / 3660.0, 0.584, 0.01);
  for (const QuestionType type : {QuestionType::kColor, QuestionType::kShape}) {
    EXPECT_EQ((count[{type, "yes"}]), (count[{type, "no"}]));
  }
}

TEST(EasyVqaTest, DetectorAgreesWithTheQuestionsOnRealPictures) {
  const EasyVqa* data = RealData();
  if (data == nullptr) GTEST_SKIP() << "FEDUMM_EASY_VQA is not set";
  int known = 0, color_right = 0, shape_right = 0;
  for (int64_t i = 0; i < data->test.num_pictures(); ++i) {
    const Concept shown = data->test.concepts[i];
    if (!shown.known()) continue;
    const Concept seen = Detect(data->test.picture(i));
    ++known;
    color_right += seen.color == shown.color;
    shape_right += seen.shape == shown.shape;
  }
  EXPECT_GT(known, 800);
  EXPECT_EQ(color_right, known);
  EXPECT_GT(shape_right, 0.98 * known);
}

TEST(EasyVqaTest, RecentredTrainingPicturesAreCounted) {
  const EasyVqa* data = RealData();
  if (data == nullptr) GTEST_SKIP() << "FEDUMM_EASY_VQA is not set";
  int kept = 0;
  for (int64_t i = 0; i < data->train.num_pictures(); ++i) {
    kept += data->train.concepts[i].known() && Recentre(data->train.picture(i)).has_value();
  }
  EXPECT_EQ(kept, 2677);
}

}  // namespace
}  // namespace fedumm::model
