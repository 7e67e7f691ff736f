// From the renderer over the detector to GenEval's official rules.
#include "model/scenes/scene.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "model/scenes/scene_detector.h"
#include "model/scenes/scene_renderer.h"
#include "testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int kNumTags = static_cast<int>(kSceneTags.size());
constexpr int kScenesPerTag = 400;

GenevalVerdict Judge(const GenevalPrompt& prompt, Picture picture) {
  absl::StatusOr<GenevalVerdict> verdict = JudgePicture(prompt, DetectShapes(picture));
  EXPECT_THAT(verdict.status(), ::fedumm::testing::IsOk());
  return verdict.ok() ? *verdict : GenevalVerdict{};
}

class SceneTagTest : public ::testing::TestWithParam<int> {};

TEST_P(SceneTagTest, EveryRenderedSceneIsJudgedRight) {
  Random random(1, {static_cast<uint64_t>(GetParam())});
  for (int i = 0; i < kScenesPerTag; ++i) {
    const Scene scene = RandomScene(static_cast<SceneTag>(GetParam()), /*old_only=*/false, random);
    const GenevalPrompt prompt = PromptOf(scene);
    ASSERT_EQ(prompt.tag, kSceneTags[static_cast<size_t>(GetParam())]);
    const GenevalVerdict verdict = Judge(prompt, RenderScene(scene, random));
    ASSERT_TRUE(verdict.correct) << prompt.metadata << ": "
                                 << ::testing::PrintToString(verdict.reasons);
  }
}

TEST_P(SceneTagTest, AnEmptyPictureIsJudgedWrong) {
  Random random(2);
  const Scene scene = RandomScene(static_cast<SceneTag>(GetParam()), /*old_only=*/false, random);
  EXPECT_FALSE(Judge(PromptOf(scene), RenderForms({}, 245)).correct);
}

TEST_P(SceneTagTest, APictureOfAnotherPromptIsRightOnlyIfItShowsTheSame) {
  Random random(3, {static_cast<uint64_t>(GetParam())});
  int wrong = 0;
  for (int i = 0; i < kScenesPerTag; ++i) {
    const Scene asked = RandomScene(static_cast<SceneTag>(GetParam()), /*old_only=*/false, random);
    const Scene drawn = RandomScene(static_cast<SceneTag>(GetParam()), /*old_only=*/false, random);
    if (!Judge(PromptOf(asked), RenderScene(drawn, random)).correct) ++wrong;
  }
  EXPECT_GT(wrong, kScenesPerTag / 2);
}

INSTANTIATE_TEST_SUITE_P(Tags, SceneTagTest, ::testing::Range(0, kNumTags), [](const auto& tag) {
  return std::string(kSceneTags[static_cast<size_t>(tag.param)]);
});

TEST(SceneJudging, AWrongCountIsWrong) {
  Random random(4);
  for (size_t wanted = 1; wanted <= 4; ++wanted) {
    for (size_t drawn = 1; drawn <= 4; ++drawn) {
      Scene scene{.tag = SceneTag::kCounting,
                  .objects = {drawn, SceneObject{.shape = 0, .color = 1}}};
      const std::vector<uint8_t> picture = RenderScene(scene, random);
      scene.objects.resize(wanted, scene.objects.front());
      EXPECT_EQ(Judge(PromptOf(scene), picture).correct, wanted == drawn) << wanted << drawn;
    }
  }
}

TEST(SceneJudging, EveryWrongColourIsWrong) {
  Random random(5);
  for (int drawn = 0; drawn < static_cast<int>(kSceneColors.size()); ++drawn) {
    for (int wanted = 0; wanted < static_cast<int>(kSceneColors.size()); ++wanted) {
      Scene scene{.tag = SceneTag::kColors, .objects = {{.shape = 3, .color = drawn}}};
      const std::vector<uint8_t> picture = RenderScene(scene, random);
      scene.objects[0].color = wanted;
      EXPECT_EQ(Judge(PromptOf(scene), picture).correct, wanted == drawn) << wanted << drawn;
    }
  }
}

TEST(SceneJudging, EveryWrongSideIsWrong) {
  Random random(6);
  for (int drawn = 0; drawn < 4; ++drawn) {
    for (int wanted = 0; wanted < 4; ++wanted) {
      Scene scene{.tag = SceneTag::kPosition,
                  .objects = {{.shape = 0, .color = 1}, {.shape = 2, .color = 4}},
                  .layout = static_cast<SceneLayout>(drawn)};
      const std::vector<uint8_t> picture = RenderScene(scene, random);
      scene.layout = static_cast<SceneLayout>(wanted);
      EXPECT_EQ(Judge(PromptOf(scene), picture).correct, wanted == drawn) << wanted << drawn;
    }
  }
}

TEST(SceneJudging, SwappedColoursAndAMissingOrWrongShapeAreWrong) {
  Random random(7);
  const SceneObject red_circle = {0, 0}, blue_square = {1, 2}, blue_circle = {0, 2},
                    red_square = {1, 0}, cross = {3, 3};
  const Scene wanted{.tag = SceneTag::kColorAttr, .objects = {red_circle, blue_square}};
  const auto judged = [&](std::vector<SceneObject> objects) {
    return Judge(PromptOf(wanted),
                 RenderScene({.tag = SceneTag::kColorAttr, .objects = std::move(objects)}, random));
  };
  EXPECT_TRUE(judged({red_circle, blue_square}).correct);
  EXPECT_TRUE(judged({blue_square, red_circle}).correct) << "no side is asked for";
  EXPECT_FALSE(judged({blue_circle, red_square}).correct);
  EXPECT_THAT(judged({red_circle}).reasons, ElementsAre("expected square>=1, found 0"));
  EXPECT_FALSE(judged({red_circle, cross}).correct);
  const Scene two{.tag = SceneTag::kTwoObject, .objects = {red_circle, blue_square}};
  EXPECT_TRUE(
      Judge(PromptOf(two), RenderScene({.objects = {blue_circle, red_square}}, random)).correct)
      << "no colour is asked for";
  const Scene one{.tag = SceneTag::kSingleObject, .objects = {cross}};
  EXPECT_FALSE(Judge(PromptOf(one), RenderScene({.objects = {red_circle}}, random)).correct);
}

TEST(SceneDetector, GivesBoxClassAndColourOfEachShape) {
  const std::vector<PlacedForm> forms = {{Form::kCircle, kScenePalette[4], 16, 20, 20},
                                         {Form::kTriangle, kScenePalette[2], 48, 40, 24}};
  const std::vector<Detection> found = DetectShapes(RenderForms(forms, 245));
  ASSERT_THAT(found, SizeIs(2));
  EXPECT_EQ(found[0].class_name, "circle");
  EXPECT_EQ(found[0].color, "yellow");
  EXPECT_EQ(found[1].class_name, "triangle");
  EXPECT_EQ(found[1].color, "blue");
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_GT(found[i].score, 0.9f);
    EXPECT_NEAR(found[i].box[0], forms[i].x - forms[i].side / 2, 1.5);
    EXPECT_NEAR(found[i].box[1], forms[i].y - forms[i].side / 2, 1.5);
    EXPECT_NEAR(found[i].box[2], forms[i].x + forms[i].side / 2, 1.5);
    EXPECT_NEAR(found[i].box[3], forms[i].y + forms[i].side / 2, 1.5);
  }
}

TEST(SceneDetector, ReportsNoSpotAndNoShapeThatItDoesNotKnow) {
  EXPECT_THAT(
      DetectShapes(RenderForms(std::vector<PlacedForm>{{Form::kCircle, {0, 0, 0}, 9, 9, 5}}, 245)),
      IsEmpty());
  EXPECT_THAT(
      DetectShapes(RenderForms(std::vector<PlacedForm>{{Form::kRing, {0, 0, 0}, 32, 32, 30}}, 245)),
      AnyOf(IsEmpty(), SizeIs(1)));
}

TEST(ScenePrompts, AreWordedAndTaggedAsGenevals) {
  const SceneObject red_circle = {0, 0}, blue_square = {1, 2}, cross = {3, 3};
  const auto line = [](SceneTag tag, std::vector<SceneObject> objects,
                       SceneLayout layout = SceneLayout::kLeft) {
    return PromptOf({.tag = tag, .objects = std::move(objects), .layout = layout}).metadata;
  };
  EXPECT_EQ(line(SceneTag::kSingleObject, {cross}),
            R"({"tag":"single_object","include":[{"class":"cross","count":1}],)"
            R"("prompt":"a photo of a cross"})");
  EXPECT_EQ(line(SceneTag::kTwoObject, {red_circle, blue_square}),
            R"({"tag":"two_object","include":[{"class":"circle","count":1},)"
            R"({"class":"square","count":1}],"prompt":"a photo of a circle and a square"})");
  EXPECT_EQ(line(SceneTag::kCounting, {cross, cross}),
            R"({"tag":"counting","include":[{"class":"cross","count":2}],)"
            R"("exclude":[{"class":"cross","count":3}],"prompt":"a photo of two crosses"})");
  EXPECT_EQ(line(SceneTag::kColors, {red_circle}),
            R"({"tag":"colors","include":[{"class":"circle","count":1,"color":"red"}],)"
            R"("prompt":"a photo of a red circle"})");
  EXPECT_EQ(line(SceneTag::kPosition, {red_circle, blue_square}, SceneLayout::kAbove),
            R"({"tag":"position","include":[{"class":"square","count":1},)"
            R"({"class":"circle","count":1,"position":["above",0]}],)"
            R"("prompt":"a photo of a circle above a square"})");
  EXPECT_EQ(line(SceneTag::kColorAttr, {red_circle, blue_square}),
            R"({"tag":"color_attr","include":[{"class":"circle","count":1,"color":"red"},)"
            R"({"class":"square","count":1,"color":"blue"}],)"
            R"("prompt":"a photo of a red circle and a blue square"})");
}

TEST(SceneQuestions, HaveAnswersOfSeveralWords) {
  Random random(8);
  const Scene above{
      .tag = SceneTag::kPosition, .objects = {{0, 0}, {1, 2}}, .layout = SceneLayout::kAbove};
  std::map<std::string, std::string> answers;
  for (int i = 0; i < 100; ++i) {
    const SceneQuestion question = OpenQuestionOf(above, 0.3, random);
    answers[question.text] = question.answer;
  }
  EXPECT_EQ(answers, (std::map<std::string, std::string>{
                         {"where is the red circle?", "above the blue square"},
                         {"where is the blue square?", "below the red circle"},
                         {"what is in the image?", "a red circle and a blue square"}}));
  EXPECT_EQ(ContentOf({.tag = SceneTag::kCounting, .objects = {{3, 4}, {3, 4}, {3, 4}}}),
            "three yellow crosses");
}

TEST(SceneQuestions, AnOldSceneAndItsQuestionsNameNothingNew) {
  Random random(9);
  for (int i = 0; i < 600; ++i) {
    const Scene scene = RandomScene(static_cast<SceneTag>(i % kNumTags), /*old_only=*/true, random);
    EXPECT_FALSE(scene.is_new());
    const SceneQuestion asked = YesNoQuestionOf(scene, /*old_only=*/true, random);
    const SceneQuestion open = OpenQuestionOf(scene, 0.3, random);
    for (const std::string& text :
         {PromptOf(scene).prompt, asked.text, open.text, open.answer, ContentOf(scene)}) {
      for (const char* word : {"triangle", "yellow", "purple"}) {
        EXPECT_THAT(text, ::testing::Not(HasSubstr(word)));
      }
    }
  }
}

TEST(SceneQuestions, AYesIsInThePictureAndANoIsNot) {
  Random random(10);
  int yes = 0;
  for (int i = 0; i < 1200; ++i) {
    const Scene scene =
        RandomScene(static_cast<SceneTag>(i % kNumTags), /*old_only=*/false, random);
    const SceneQuestion question = YesNoQuestionOf(scene, /*old_only=*/false, random);
    const bool shown =
        std::any_of(scene.objects.begin(), scene.objects.end(), [&](SceneObject object) {
          const std::string shape(kSceneShapes[static_cast<size_t>(object.shape)]);
          const std::string color(kSceneColors[static_cast<size_t>(object.color)]);
          return question.text == "is there a " + shape + "?" ||
                 question.text == "is there a " + color + " shape?" ||
                 question.text == "is there a " + color + " " + shape + "?";
        });
    EXPECT_EQ(question.answer, shown ? "yes" : "no") << question.text << " " << ContentOf(scene);
    yes += shown;
  }
  EXPECT_NEAR(yes, 600, 80);
}

}  // namespace
}  // namespace fedumm::model
