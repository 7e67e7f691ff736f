#include "model/demo/pretrain_examples.h"

#include <cstdlib>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "testing/status_matchers.h"

namespace fedumm::model {
namespace {

constexpr int kExamples = 1000;

int L1(Rgb a, Rgb b) {
  return std::abs(a[0] - b[0]) + std::abs(a[1] - b[1]) + std::abs(a[2] - b[2]);
}

TEST(RendererTest, TheDetectorSeesWhatWasRendered) {
  Random random(1);
  int right = 0;
  for (int i = 0; i < kExamples; ++i) {
    const Concept shown = {i % 8, i / 8 % 3};
    const auto picture = RenderPicture(static_cast<Form>(shown.shape), kPalette[shown.color],
                                       Placement::kCentred, random);
    ASSERT_EQ(picture.size(), kPictureBytes);
    right += Detect(picture) == shown;
  }
  EXPECT_GT(right, 0.98 * kExamples);
}

TEST(RendererTest, CentredShapesStayInTheMiddle) {
  Random random(2);
  for (int form = 0; form < kNumForms; ++form) {
    const auto picture =
        RenderPicture(static_cast<Form>(form), {0, 0, 255}, Placement::kCentred, random);
    const auto moved = Recentre(picture);
    if (moved.has_value()) {
      EXPECT_EQ(Detect(*moved).color, 1);
    }
    EXPECT_GE(picture[0], 230);  // a pale corner
  }
}

TEST(RendererTest, PicturesDependOnTheRandomStateAlone) {
  Random first(3), again(3), other(4);
  const auto render = [](Random& random) {
    return RenderPicture(Form::kCross, {255, 0, 0}, Placement::kAnywhere, random);
  };
  const auto picture = render(first);
  EXPECT_EQ(picture, render(again));
  EXPECT_NE(picture, render(other));
}

class PretrainExamplesTest : public ::testing::Test {
 protected:
  static void ExpectNoNewWord(const std::string& text) {
    const std::vector<std::string> words = absl::StrSplit(text, absl::ByAnyChar(" ?"));
    for (const std::string& word : words) {
      for (int i = 0; i < 8; ++i) EXPECT_FALSE(IsNewColor(i) && word == kColors[i]) << text;
      for (int i = 0; i < 3; ++i) EXPECT_FALSE(IsNewShape(i) && word == kShapes[i]) << text;
    }
  }

  Random random_{5};
  PretrainExamples examples_{random_};
};

TEST_F(PretrainExamplesTest, TheTowerSeesNoTriangleAndNoColorCloseToANewOne) {
  std::set<Form> forms;
  for (int i = 0; i < kExamples; ++i) {
    const TowerExample example = examples_.Tower();
    forms.insert(example.form);
    for (int color = 0; color < 8; ++color) {
      if (IsNewColor(color)) {
        EXPECT_GE(L1(example.color, kPalette[color]), 110);
      }
    }
  }
  EXPECT_FALSE(forms.contains(Form::kTriangle));
  EXPECT_EQ(forms.size(), kNumForms - 1);
}

TEST_F(PretrainExamplesTest, TheDecoderSeesAndReadsOldConceptsOnly) {
  std::set<std::string> answers;
  for (int i = 0; i < kExamples; ++i) {
    const Concept shown = examples_.Picture().shown;
    ASSERT_TRUE(shown.known());
    EXPECT_FALSE(IsNewColor(shown.color) || IsNewShape(shown.shape));
    for (const QuestionExample& example :
         {examples_.YesNoQuestion(shown), examples_.WhatQuestion(shown)}) {
      ExpectNoNewWord(example.question);
      ExpectNoNewWord(example.answer);
      EXPECT_EQ(example.question.find('%'), std::string::npos);
      answers.insert(example.answer);
    }
  }
  EXPECT_EQ(answers.size(), 5 + 2 + 2);  // colours, shapes, yes and no
}

TEST_F(PretrainExamplesTest, AnswersAreTrue) {
  const Concept shown = {5, 0};
  int yes = 0;
  for (int i = 0; i < kExamples; ++i) {
    const QuestionExample asked = examples_.YesNoQuestion(shown);
    const bool names_it = asked.question.find("red") != std::string::npos ||
                          asked.question.find("circle") != std::string::npos;
    EXPECT_EQ(asked.answer, names_it ? "yes" : "no") << asked.question;
    yes += names_it;
    const QuestionExample what = examples_.WhatQuestion(shown);
    const bool of_color = what.question.find("color") != std::string::npos;
    EXPECT_EQ(what.answer, of_color ? "red" : "circle") << what.question;
  }
  EXPECT_NEAR(yes, kExamples / 2, kExamples / 20);
}

TEST_F(PretrainExamplesTest, DrawingsShowAllShapesInOldColors) {
  std::set<std::pair<int, int>> shown;
  for (int i = 0; i < kExamples / 2; ++i) {
    const ConceptExample example = examples_.Drawing();
    EXPECT_FALSE(IsNewColor(example.shown.color));
    EXPECT_EQ(Detect(example.picture).color, example.shown.color);
    EXPECT_TRUE(Recentre(example.picture).has_value());
    shown.insert({example.shown.color, example.shown.shape});
    EXPECT_TRUE(Recentre(examples_.CodecPicture()).has_value());
  }
  EXPECT_EQ(shown.size(), 5 * 3);
}

}  // namespace
}  // namespace fedumm::model
