// tests/data/geneval: what the official evaluate_image() says of constructed detections;
// tests/data/blip3o/geneval: the same as a folder of pictures.
#include "fedumm/model/geneval.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "tests/model/data/test_files.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::StatusIs;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

Json Golden() { return Json::parse(testing::ReadTestData("geneval/geneval_golden.json")); }

std::vector<Detection> DetectionsOf(const Json& json) {
  std::vector<Detection> detections;
  for (const Json& item : json) {
    Detection detection{.class_name = item.at("class"),
                        .score = item.at("score"),
                        .color = item.value("color", "")};
    for (size_t i = 0; i < 4; ++i) detection.box[i] = item.at("box").at(i);
    detections.push_back(detection);
  }
  return detections;
}

std::array<float, 4> BoxOf(const Json& json) {
  return {json.at(0), json.at(1), json.at(2), json.at(3)};
}

TEST(GenevalTest, JudgesEveryCaseAsTheOfficialScript) {
  int64_t cases = 0;
  const Json golden = Golden();
  for (const Json& item : golden.at("cases")) {
    ++cases;
    ASSERT_OK_AND_ASSIGN(const GenevalPrompt prompt,
                         ParseGenevalPrompt(item.at("metadata").dump()));
    const Json& given = item.at("options");
    GenevalOptions options;
    options.threshold = given.value("threshold", options.threshold);
    options.max_objects = given.value("max_objects", options.max_objects);
    options.max_overlap = given.value("max_overlap", options.max_overlap);
    options.position_threshold = given.value("position_threshold", options.position_threshold);
    ASSERT_OK_AND_ASSIGN(
        const GenevalVerdict verdict,
        JudgePicture(prompt, DetectionsOf(item.at("detections")), nullptr, options));
    const std::string what = item.dump();
    EXPECT_EQ(verdict.correct, item.at("correct").get<bool>()) << what;
    EXPECT_EQ(verdict.reasons, item.at("reason").get<std::vector<std::string>>()) << what;
    EXPECT_EQ(verdict.counts, (item.at("kept").get<std::map<std::string, int64_t>>())) << what;
  }
  EXPECT_GE(cases, 100);
}

TEST(GenevalTest, PositionsAndOverlapsAreTheOfficialOnes) {
  const Json golden = Golden();
  for (const Json& item : golden.at("relative_position")) {
    EXPECT_EQ(RelativePositions(BoxOf(item.at("a")), BoxOf(item.at("b"))),
              item.at("relations").get<std::vector<std::string>>())
        << item;
  }
  for (const Json& item : golden.at("compute_iou")) {
    EXPECT_NEAR(BoxOverlap(BoxOf(item.at("a")), BoxOf(item.at("b"))), item.at("iou"), 1e-6) << item;
  }
}

TEST(GenevalTest, AFolderIsWalkedJudgedAndSummedUpAsTheOfficialScriptsDo) {
  const std::string root = std::string(FEDUMM_TEST_DATA) + "/blip3o/geneval";
  ASSERT_OK_AND_ASSIGN(const GenevalFolder folder, ReadGenevalFolder(root + "/images"));
  EXPECT_THAT(folder.left_out, ::testing::ElementsAre("00099"));
  ASSERT_OK_AND_ASSIGN(const auto detections, ReadDetections(root + "/detections.json"));
  std::vector<GenevalResult> results;
  std::istringstream expected(testing::ReadTestData("blip3o/geneval/expected.jsonl"));
  for (const GenevalPicture& picture : folder.pictures) {
    ASSERT_OK_AND_ASSIGN(GenevalVerdict verdict,
                         JudgePicture(picture.prompt, detections.at(picture.name)));
    results.push_back({picture, std::move(verdict)});
    std::string line;
    ASSERT_TRUE(std::getline(expected, line));
    const Json want = Json::parse(line);
    const Json got = Json::parse(GenevalResultLine(results.back()));
    for (const char* key : {"filename", "tag", "prompt", "correct", "metadata"}) {
      EXPECT_EQ(got.at(key), want.at(key)) << line;
    }
    const std::string reason = got.at("reason");
    EXPECT_EQ(reason.empty() ? std::vector<std::string>() : absl::StrSplit(reason, '\n'),
              want.at("reason").get<std::vector<std::string>>())
        << line;
  }
  const Json want = Json::parse(testing::ReadTestData("blip3o/geneval/summary.json"));
  EXPECT_EQ(Json::parse(SummaryJson(Summarize(results))), want);
  EXPECT_THAT(SummaryText(Summarize(results)), HasSubstr("two_object       = 75.00% (3 / 4)"));
}

TEST(GenevalTest, TheOfficialPromptsAreUnderstood) {
  std::map<std::string, int> tags;
  std::istringstream lines(testing::ReadTestData("geneval/evaluation_metadata.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    ASSERT_OK_AND_ASSIGN(const GenevalPrompt prompt, ParseGenevalPrompt(line));
    ++tags[prompt.tag];
  }
  EXPECT_EQ(tags, (std::map<std::string, int>{{"single_object", 80},
                                              {"two_object", 99},
                                              {"counting", 80},
                                              {"colors", 94},
                                              {"position", 100},
                                              {"color_attr", 100}}));
}

TEST(GenevalTest, WhatIsNoPromptIsNamed) {
  for (const auto& [text, named] : std::map<std::string, std::string>{
           {"[]", "no JSON object"},
           {R"({"prompt": "x"})", "'tag'"},
           {R"({"tag": "colors", "prompt": "x", "include": [{"class": "cat", "count": -1}]})",
            "'count'"},
           {R"({"tag": "colors", "prompt": "x", "include": {}})", "'include' is no list"}}) {
    EXPECT_THAT(ParseGenevalPrompt(text),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(named)));
  }
  ASSERT_OK_AND_ASSIGN(const GenevalPrompt forward,
                       ParseGenevalPrompt(R"({"tag": "position", "prompt": "x", "include":
                             [{"class": "cat", "count": 1, "position": ["above", 7]}]})"));
  EXPECT_THAT(JudgePicture(forward, std::vector<Detection>{{"cat", {0, 0, 1, 1}, 1, ""}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("target 7")));
}

TEST(GenevalTest, ColoursAreAskedForTheObjectsThatCountOnly) {
  ASSERT_OK_AND_ASSIGN(const GenevalPrompt prompt,
                       ParseGenevalPrompt(R"({"tag": "colors", "prompt": "a red cup", "include":
                             [{"class": "cup", "count": 1, "color": "red"}]})"));
  const std::vector<Detection> cups = {{"cup", {0, 0, 9, 9}, 0.5f, ""},
                                       {"cup", {9, 9, 20, 20}, 0.8f, ""}};
  size_t asked = 0;
  const auto red =
      [&](std::span<const Detection> objects) -> absl::StatusOr<std::vector<std::string>> {
    asked += objects.size();
    EXPECT_EQ(objects[0].score, 0.8f);
    return std::vector<std::string>(objects.size(), "red");
  };
  ASSERT_OK_AND_ASSIGN(const GenevalVerdict verdict, JudgePicture(prompt, cups, red));
  EXPECT_TRUE(verdict.correct);
  EXPECT_EQ(asked, 1);
}

}  // namespace
}  // namespace fedumm::model
