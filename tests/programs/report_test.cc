#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>

#include "programs/report/format.h"
#include "programs/report/live_table.h"
#include "programs/report/report_html.h"
#include "programs/report/run_data.h"
#include "programs/report/svg.h"
#include "programs/report/tensorboard.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::programs {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

RunData Example() {
  RunData data{.name = "demo",
               .strategy = "fedavg",
               .command = "make demo",
               .frozen = "It saw <none> of them.",
               .seed = 7,
               .seconds = 170,
               .adapter_bytes = 330'000,
               .full_model_bytes = 3'210'000};
  data.settings = {{"lora.r", "8"}};
  data.clients = {
      {.partition_id = 0, .node_id = 11, .histograms = {{"vqa", {{"red", 5}, {"yes", 9}}}}},
      {.partition_id = 1, .node_id = 12, .histograms = {{"vqa", {{"red", 0}, {"yes", 3}}}}}};
  data.rounds = {
      {.number = 0, .accuracies = {{"vqa", 0.68}, {"draw", 0.56}}},
      {.number = 1,
       .seconds = 3.25,
       .train_loss = 0.5,
       .losses = {{"vqa", 0.4}},
       .accuracies = {{"vqa", 0.8}, {"draw", kNan}},
       .nodes = {{11, true, "", 330'500, 331'000}, {12, false, "loss is NaN", 330'500, 900}}}};
  data.verdicts["vqa"] = {{0.68, 0.47}, {0.94, 0.92}, {0.95, 0.93}, {{0.6, 0.4}, {0.7, 0.5}}};
  data.verdicts["draw"] = {{0.56, 0}, {0.87, 0.8}, {0.93, 0.9}, {{0.6, 0.2}, {0.7, 0.3}}};
  data.verdicts["vqa"].centralized_given = {.steps = 400, .examples = 12800};
  data.settings.emplace_back("data.balanced-batches", "true");
  data.questions = {{"\x89PNG bytes", "what color is it?", "teal", "blue", "teal"}};
  data.drawings = {{"draw a teal circle", "before", "after", false, true}};
  return data;
}

TEST(RunData, SurvivesItsJson) {
  const RunData data = Example();
  ASSERT_OK_AND_ASSIGN(const RunData read, RunDataFromJson(ToJson(data)));
  EXPECT_EQ(ToJson(read), ToJson(data));
  EXPECT_EQ(read.questions[0].png, data.questions[0].png);
  EXPECT_TRUE(std::isnan(read.rounds[1].accuracies.at("draw")));
  EXPECT_EQ(read.rounds[1].nodes[1].reason, "loss is NaN");
}

TEST(RunData, RefusesTextThatIsNoRun) {
  for (const char* text : {"", "{}", "[1]", "{\"name\": 3}", "nul"}) {
    EXPECT_THAT(RunDataFromJson(text), StatusIs(absl::StatusCode::kInvalidArgument)) << text;
  }
}

TEST(Summary, HasTheDocumentedFields) {
  const auto json = nlohmann::json::parse(SummaryJson(Example()));
  EXPECT_EQ(json["vqa"]["frozen"], 0.68);
  EXPECT_NEAR(json["vqa"]["local_mean"].get<double>(), 0.65, 1e-12);
  EXPECT_EQ(json["draw"]["federated"], 0.87);
  EXPECT_EQ(json["draw"]["centralized"], 0.93);
  EXPECT_EQ(json["bytes"]["adapter_per_round"], 330'000);
  EXPECT_EQ(json["bytes"]["full_model_per_round"], 3'210'000);
  EXPECT_EQ(json["clients"], 2);
  EXPECT_EQ(json["rounds"], 1);
  EXPECT_EQ(json["seconds"], 170);
  EXPECT_EQ(json["seed"], 7);
}

TEST(Report, EscapesWhatPeersNamed) {
  RunData data = Example();
  data.name = "<script>alert(1)</script>";
  data.questions[0].after = "<img src=x onerror='x'>";
  data.clients[0].histograms["vqa"][0].first = "</svg><script>";
  const std::string html = ReportHtml(data);
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, Not(HasSubstr("<img src=x")));
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;alert(1)"));
}

TEST(Report, NeedsNothingFromOutside) {
  const std::string html = ReportHtml(Example());
  EXPECT_THAT(html, Not(HasSubstr("http")));
  EXPECT_THAT(html, Not(HasSubstr("@import")));
  EXPECT_THAT(html, HasSubstr("data:image/png;base64,"));
}

TEST(Report, LeavesOutWhatWasNotMeasured) {
  const std::string html = ReportHtml(RunData{.name = "empty"});
  EXPECT_THAT(html, HasSubstr("A federated run"));
  EXPECT_THAT(html, Not(HasSubstr("nan")));
  EXPECT_THAT(html, Not(HasSubstr("The verdict")));
}

TEST(Report, SaysWhatEachTrainingWasGiven) {
  RunData data = Example();
  EXPECT_THAT(ReportHtml(data), HasSubstr("<td class='n'>12,800</td><td class='n'>400</td>"));
  EXPECT_THAT(ReportHtml(data), HasSubstr("balanced by colour"));
  EXPECT_THAT(ReportHtml(data), HasSubstr("It saw &lt;none&gt; of them."));
  data.settings.back().second = "false";
  EXPECT_THAT(ReportHtml(data), Not(HasSubstr("balanced by colour")));
}

TEST(Format, ThousandsAreSetApart) {
  EXPECT_EQ(Thousands(0), "0");
  EXPECT_EQ(Thousands(999), "999");
  EXPECT_EQ(Thousands(1000), "1,000");
  EXPECT_EQ(Thousands(1234567), "1,234,567");
}

TEST(LineChart, BreaksTheLineWhereAValueIsMissing) {
  LineChart chart{.title = "t", .percent = true};
  chart.series = {{"a", "s1", {{0, 0.5}, {1, kNan}, {2, 0.5}, {3, 0.6}}}};
  const std::string svg = LineChartSvg(chart);
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_EQ(std::count(svg.begin(), svg.end(), 'M'), 2);
}

TEST(LiveTable, ColumnsLineUp) {
  const RunData data = Example();
  const std::vector<std::string> tasks = {"vqa", "draw"};
  const std::string header = TableHeader(tasks);
  const std::string row = TableRow(data.rounds[1], tasks);
  EXPECT_EQ(header, "round   nodes     loss      vqa     draw   down/node     up/node  seconds");
  EXPECT_EQ(row, "    1     1/2   0.5000   80.0 %        –      330 kB      166 kB      3.2");
}

TEST(Format, BytesAreShortAndRound) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(999), "999 B");
  EXPECT_EQ(HumanBytes(1000), "1.0 kB");
  EXPECT_EQ(HumanBytes(330'240), "330 kB");
  EXPECT_EQ(HumanBytes(999'700), "1.0 MB");
  EXPECT_EQ(HumanBytes(80.7e6), "80.7 MB");
}

TEST(Crc32c, MatchesTheVectorsOfRfc3720) {
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
}

TEST(TensorBoard, WritesTheRecordsThatTensorBoardReads) {
  const std::string folder = ::testing::TempDir() + "tensorboard_test";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  {
    ASSERT_OK_AND_ASSIGN(TensorBoardWriter writer, TensorBoardWriter::Create(folder, 1.5));
    ASSERT_THAT(writer.AddScalar("acc", 3, 0.5f, 2.5), IsOk());
  }
  std::ifstream stream(std::filesystem::directory_iterator(folder)->path(), std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
  // Length, its masked CRC, the event, its masked CRC; twice. Taken from tensorboard's own writer
  // for these two events.
  std::string expected("\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22", 12);
  EXPECT_EQ(bytes.substr(0, 12), expected);
  EXPECT_EQ(bytes.substr(12, 24), std::string("\x09\0\0\0\0\0\0\xf8\x3f\x1a\x0d"
                                              "brain.Event:2",
                                              24));
  EXPECT_EQ(bytes.substr(52), std::string("\x09\0\0\0\0\0\0\x04\x40\x10\x03\x2a\x0c\x0a\x0a\x0a\x03"
                                          "acc\x15\0\0\0\x3f",
                                          25) +
                                  bytes.substr(77));
  EXPECT_EQ(bytes.size(), 81u);
}

}  // namespace
}  // namespace fedumm::programs
