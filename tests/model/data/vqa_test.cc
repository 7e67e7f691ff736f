#include "fedumm/model/vqa.h"

#include <algorithm>
#include <fstream>

#include "fedumm/model/vqa_folder.h"
#include "model/data/json_entries.h"
#include "tests/model/data/test_files.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::ReadTestData;
using ::fedumm::testing::ReadTestJson;
using ::fedumm::testing::ScratchPath;
using ::fedumm::testing::StatusIs;
using ::fedumm::testing::TestDataPath;
using ::testing::HasSubstr;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

std::vector<std::string> Answers(const std::string& most, int n, const std::string& rest) {
  std::vector<std::string> answers(10, rest);
  std::fill_n(answers.begin(), n, most);
  return answers;
}

TEST(VqaAccuracy, OfficialScoresAreThoseOfTheOfficialCode) {
  const nlohmann::json golden = ReadTestJson("vqa/accuracy_golden.json");
  ASSERT_EQ(golden["cases"].size(), 307);
  std::vector<VqaQuestion> questions;
  std::vector<VqaResult> results;
  for (const nlohmann::json& c : golden["cases"]) {
    const VqaQuestion question = {.question_id = c["id"],
                                  .question_type = c["question_type"],
                                  .answer_type = c["answer_type"],
                                  .answers = c["answers"]};
    const std::string result = c["result"];
    EXPECT_NEAR(100 * VqaAccuracy(result, question.answers), c["accuracy"].get<double>(), 5.001e-3)
        << c.dump();
    EXPECT_EQ(NormalizeVqaAnswer(result), c["normalised_result"].get<std::string>());
    questions.push_back(question);
    results.push_back({question.question_id, result});
  }
  ASSERT_OK_AND_ASSIGN(const VqaReport report, ScoreVqa(questions, results));
  EXPECT_EQ(report.overall, golden["overall"].get<double>());
  EXPECT_EQ(report.per_question_type,
            (golden["per_question_type"].get<std::map<std::string, double>>()));
  EXPECT_EQ(report.per_answer_type,
            (golden["per_answer_type"].get<std::map<std::string, double>>()));
}

TEST(VqaAccuracy, ScorersDifferInTheMatchesTheyNeed) {
  const double official[] = {0, .3, .6, .9, 1, 1};
  const double legacy[] = {0, 1 / 3.0, 2 / 3.0, 1, 1, 1};
  for (int n = 0; n <= 5; ++n) {
    const std::vector<std::string> answers = Answers("red", n, "blue");
    EXPECT_DOUBLE_EQ(VqaAccuracy("red", answers), official[n]) << n;
    EXPECT_DOUBLE_EQ(VqaAccuracy("red", answers, VqaScorer::kLmms), official[n]) << n;
    EXPECT_DOUBLE_EQ(VqaAccuracy("red", answers, VqaScorer::kFedummLegacy), legacy[n]) << n;
  }
  EXPECT_EQ(VqaAccuracy("red", {}), 0);
}

TEST(VqaAccuracy, OnlyLmmsNormalisesThePredictionAgainstUnanimousAnswers) {
  const std::vector<std::string> yes(10, "yes");
  EXPECT_EQ(VqaAccuracy("Yes.", yes), 0);
  EXPECT_EQ(VqaAccuracy("Yes.", yes, VqaScorer::kLmms), 1);
  EXPECT_EQ(VqaAccuracy(" Yes ", yes, VqaScorer::kFedummLegacy), 1);
  EXPECT_EQ(VqaAccuracy("Yes.", yes, VqaScorer::kFedummLegacy), 0);
  const std::vector<std::string> raw(10, "Yes");
  EXPECT_EQ(VqaAccuracy("Yes", raw, VqaScorer::kLmms), 0);
}

TEST(VqaAccuracy, LmmsNormalisesPredictionsInItsOwnWay) {
  // Each row: a prediction, and the unanimous raw answer that it must become.
  const std::pair<const char*, const char*> rows[] = {{"t-shirt", "t shirt"},
                                                      {"red / white", "red white"},
                                                      {"1,000", "1000"},
                                                      {"black, white", "black white"},
                                                      {"$5.00", "$5.00"},
                                                      {"10:30", "10:30"},
                                                      {"10%", "10%"},
                                                      {"None", "0"},
                                                      {"one two", "1 2"},
                                                      {"The Dog", "dog"},
                                                      {"dont", "don't"},
                                                      {"Im", "im"},
                                                      {"twas", "'twas"},
                                                      {"it's", "it 's"},
                                                      {"man's", "man 's"},
                                                      {"1,000-5", "1000 5"},
                                                      {"1,,000", "1000"},
                                                      {"5.", "5"},
                                                      {"-5", "5"},
                                                      {"5-6", "5 6"},
                                                      {"a.m.", "am"},
                                                      {"a", ""},
                                                      {"no...", "no"},
                                                      {"O'Clock", "o'clock"},
                                                      {"somebody'd", "somebodyd"}};
  for (const auto& [prediction, answer] : rows) {
    EXPECT_EQ(VqaAccuracy(prediction, std::vector<std::string>(10, answer), VqaScorer::kLmms), 1)
        << prediction;
  }
}

TEST(VqaAccuracy, OfficialNormalisationOfTheTable) {
  const std::pair<const char*, const char*> rows[] = {{"1,000-5", "10005"},
                                                      {"1,,000", "1 000"},
                                                      {"it's", "it's"},
                                                      {"let's", "let's"},
                                                      {"a", ""},
                                                      {".5", ".5"},
                                                      {"\xff ok", "\xef\xbf\xbd ok"},
                                                      {"\xc4\xb0", "i\xcc\x87"}};
  for (const auto& [text, expected] : rows) EXPECT_EQ(NormalizeVqaAnswer(text), expected) << text;
}

TEST(ScoreVqa, NeedsExactlyOneResultForEachQuestion) {
  const std::vector<VqaQuestion> questions = {{.question_id = 1, .answers = {"a", "b"}},
                                              {.question_id = 2, .answers = {"a", "b"}}};
  EXPECT_THAT(ScoreVqa(questions, std::vector<VqaResult>{{1, "a"}}), StatusIs(kInvalid));
  EXPECT_THAT(ScoreVqa(questions, std::vector<VqaResult>{{1, "a"}, {1, "b"}}),
              StatusIs(kInvalid, HasSubstr("more than one result for question 1")));
  EXPECT_THAT(ScoreVqa(questions, std::vector<VqaResult>{{1, "a"}, {3, "b"}}),
              StatusIs(kInvalid, HasSubstr("no result for question 2")));
  EXPECT_THAT(ScoreVqa({}, {}), StatusIs(kInvalid));
}

TEST(VqaV2, ReadsQuestionsWithTheirAnnotations) {
  ASSERT_OK_AND_ASSIGN(
      const std::vector<VqaQuestion> questions,
      ReadVqaV2(TestDataPath("vqa/questions.json"), TestDataPath("vqa/annotations.json")));
  ASSERT_EQ(questions.size(), 60);
  EXPECT_EQ(questions[4].question_id, 102000);
  EXPECT_EQ(questions[4].image_id, 102);
  EXPECT_EQ(questions[4].question, "How many thing 4?");
  EXPECT_EQ(questions[4].question_type, "how many");
  EXPECT_EQ(questions[4].answer_type, "number");
  EXPECT_EQ(questions[4].answers.size(), 10);
  EXPECT_EQ(std::ranges::count(questions[4].answers, "1"), 4);
  ASSERT_OK_AND_ASSIGN(const std::vector<VqaResult> results,
                       ReadVqaResults(TestDataPath("vqa/results.json")));
  ASSERT_OK_AND_ASSIGN(const VqaReport report, ScoreVqa(questions, results));
  EXPECT_GT(report.overall, 50);
  EXPECT_EQ(report.per_answer_type.size(), 3);
}

TEST(VqaV2, TestSplitsHaveNoAnnotations) {
  ASSERT_OK_AND_ASSIGN(const std::vector<VqaQuestion> questions,
                       ReadVqaV2(TestDataPath("vqa/questions.json"), ""));
  EXPECT_EQ(questions.size(), 60);
  EXPECT_TRUE(questions[0].answers.empty());
}

TEST(VqaV2, RefusesFilesThatDoNotFollowTheSchema) {
  const std::string good_questions =
      R"({"questions":[{"question_id":1,"image_id":2,"question":"q"}]})";
  const std::string annotation =
      R"({"question_id":1,"image_id":2,"question_type":"t","answer_type":"o",)"
      R"("multiple_choice_answer":"x","answers":[{"answer_id":1,"answer":"x"}]})";
  const auto read = [](const std::string& questions, const std::string& annotations) {
    const std::string path = ScratchPath("q.json");
    const std::string annotations_path = path + ".annotations";
    std::ofstream(path) << questions;
    std::ofstream(annotations_path) << annotations;
    return ReadVqaV2(path, annotations_path).status();
  };
  const auto list = [](const std::string& items) { return R"({"annotations":[)" + items + "]}"; };
  EXPECT_THAT(read(good_questions, list(annotation)), IsOk());
  EXPECT_THAT(read(good_questions, list(annotation + "," + annotation)),
              StatusIs(kInvalid, HasSubstr("annotated twice")));
  EXPECT_THAT(read(good_questions, list("")),
              StatusIs(kInvalid, HasSubstr("no annotation of question 1")));
  EXPECT_THAT(read(good_questions, list("7")), StatusIs(kInvalid, HasSubstr("array of objects")));
  EXPECT_THAT(read(good_questions, list(R"({"question_id":9})")),
              StatusIs(kInvalid, HasSubstr("unknown question: 9")));
  EXPECT_THAT(read(good_questions, "{}"), StatusIs(kInvalid, HasSubstr("no array")));
  EXPECT_THAT(read(good_questions, "["), StatusIs(kInvalid, HasSubstr("not a JSON")));
  EXPECT_THAT(read("[]", list(annotation)), StatusIs(kInvalid));
  EXPECT_THAT(read(R"({"questions":[{"question_id":"1"}]})", list(annotation)),
              StatusIs(kInvalid, HasSubstr("the integer 'question_id'")));
  EXPECT_THAT(ReadVqaV2(ScratchPath("none"), ""), StatusIs(absl::StatusCode::kNotFound));
}

// `json` with `limit` bytes at a time.
absl::Status Read(const std::string& json, const std::string& array, size_t limit = 1 << 20) {
  size_t done = 0;
  const ByteSource source = [&](char* out, size_t size) -> absl::StatusOr<size_t> {
    const size_t count = json.copy(out, std::min(size, limit), done);
    done += count;
    return count;
  };
  return ForEachJsonEntry(source, array, "answers",
                          [](const JsonEntry&) { return absl::OkStatus(); });
}

TEST(JsonEntries, MemoryDoesNotGrowWithWhatAFileSays) {
  const std::string text(2'000'000, 'x');
  std::string fields, items, nested = "[{\"x\":";
  for (int i = 0; i < 300; ++i) fields += "\"x\":1,";
  for (int i = 0; i < 70'000; ++i) items += "{},";
  for (int i = 0; i < 100'000; ++i) nested += "[";
  EXPECT_THAT(Read("[{\"x\":\"" + text + "\"}]", ""),
              StatusIs(kInvalid, HasSubstr("without a quotation mark")));
  EXPECT_THAT(Read("[{" + fields + "\"y\":1}]", ""), StatusIs(kInvalid, HasSubstr("256 fields")));
  EXPECT_THAT(Read("[{\"answers\":[" + items + "{}]}]", ""),
              StatusIs(kInvalid, HasSubstr("more than 65536 'answers'")));
  EXPECT_THAT(Read(nested, ""), StatusIs(kInvalid, HasSubstr("64 levels")));
}

TEST(JsonEntries, OnlyTheNamedArrayOfTheRootIsRead) {
  const std::string json = R"({"info":{"questions":[1,2]},"questions":[{"x":{"answers":[3]},)"
                           R"("answers":[]}, {}],"license":[[1]]})";
  for (const size_t limit : {1, 5, 1000}) EXPECT_THAT(Read(json, "questions", limit), IsOk());
  EXPECT_THAT(Read(json, "license"), StatusIs(kInvalid, HasSubstr("not an array of objects")));
  EXPECT_THAT(Read(json, "info"), StatusIs(kInvalid, HasSubstr("not an array of objects")));
  EXPECT_THAT(Read(json, "annotations"), StatusIs(kInvalid, HasSubstr("no array 'annotations'")));
  EXPECT_THAT(Read(json, ""), StatusIs(kInvalid));
  EXPECT_THAT(Read(json + "x", "questions"), StatusIs(kInvalid, HasSubstr("not a JSON document")));
  EXPECT_THAT(Read("[{\"answers\":[7]}]", ""), StatusIs(kInvalid, HasSubstr("no object")));
}

TEST(VqaV2, ResultsFileIsWhatTheServerTakes) {
  const std::string path = ScratchPath("results.json");
  const std::vector<VqaResult> results = {{42000, "caf\xc3\xa9"}, {42001, "half \xc3"}};
  ASSERT_THAT(WriteVqaResults(path, results), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::vector<VqaResult> read, ReadVqaResults(path));
  ASSERT_EQ(read.size(), 2);
  EXPECT_EQ(read[0].question_id, 42000);
  EXPECT_EQ(read[0].answer, "caf\xc3\xa9");
  EXPECT_EQ(read[1].answer, "half \xef\xbf\xbd");
}

TEST(VqaV2, ImageNamesHaveTwelveDigits) {
  EXPECT_EQ(VqaImageName("val2014", 42), "COCO_val2014_000000000042.jpg");
}

TEST(VqaFolder, ASubsetThatLeadsOutOfTheFolderIsRefused) {
  for (const char* subset : {"../../etc", "/etc", "..", "a/b", "a\\b"}) {
    EXPECT_THAT(VqaFolder::Load({.folder = ::testing::TempDir(), .subset = subset}).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("subset")))
        << subset;
  }
}

}  // namespace
}  // namespace fedumm::model
