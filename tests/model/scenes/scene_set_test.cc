#include "model/scenes/scene_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "fedumm/model/easy_vqa.h"
#include "fedumm/model/vqa.h"
#include "model/scenes/scene_detector.h"

namespace fedumm::model {
namespace {

TEST(SceneSetTest, EqualSeedsGiveEqualSetsAndOthersDoNot) {
  const SceneSet a = SceneSet::Render(30, 1), b = SceneSet::Render(30, 1),
                 c = SceneSet::Render(30, 2);
  EXPECT_EQ(a.pixels, b.pixels);
  EXPECT_NE(a.pixels, c.pixels);
  ASSERT_EQ(a.questions.size(), b.questions.size());
  for (size_t i = 0; i < a.questions.size(); ++i) {
    EXPECT_EQ(a.questions[i].question.text, b.questions[i].question.text);
    EXPECT_EQ(a.questions[i].question.answer, b.questions[i].question.answer);
  }
}

TEST(SceneSetTest, EveryTagAndEveryTypeOfQuestionIsThere) {
  const SceneSet set = SceneSet::Render(600, 3);
  ASSERT_EQ(set.scenes.size(), 600u);
  ASSERT_EQ(set.pixels.size(), 600u * kPictureBytes);
  ASSERT_EQ(set.questions.size(), 1200u);
  std::map<std::string_view, int> tags, types;
  for (const Scene& scene : set.scenes) ++tags[NameOf(scene.tag)];
  for (const SceneAsked& asked : set.questions) ++types[asked.question.type];
  for (const std::string_view tag : kSceneTags) EXPECT_EQ(tags[tag], 100) << tag;
  for (const std::string_view type : kSceneQuestionTypes) EXPECT_GT(types[type], 40) << type;
}

TEST(SceneSetTest, ThePictureOfAQuestionShowsItsScene) {
  const SceneSet set = SceneSet::Render(60, 4);
  for (const SceneAsked& asked : set.questions) {
    const Picture picture = Picture(set.pixels)
                                .subspan(static_cast<size_t>(asked.picture * kPictureBytes),
                                         static_cast<size_t>(kPictureBytes));
    const Scene& scene = set.scenes[static_cast<size_t>(asked.picture)];
    EXPECT_EQ(DetectShapes(picture).size(), scene.objects.size());
    EXPECT_TRUE(asked.is_new || !scene.is_new()) << asked.question.text;
  }
}

// A word too many, or another order, is another answer.
TEST(SceneSetTest, AnswersOfSeveralWordsAreJudgedByTheOfficialAccuracy) {
  const std::vector<std::string> answers(10, "left of the blue square");
  EXPECT_EQ(VqaAccuracy("left of the blue square", answers), 1);
  EXPECT_EQ(VqaAccuracy("left of the red square", answers), 0);
  EXPECT_EQ(VqaAccuracy("left", answers), 0);
  EXPECT_EQ(VqaAccuracy("right of the blue square", answers), 0);
}

}  // namespace
}  // namespace fedumm::model
