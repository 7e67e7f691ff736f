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

// Tasks, clients and samples of no world that there is.
RunData Example() {
  RunData data{.name = "demo",
               .strategy = "fedavg",
               .command = "make demo",
               .seed = 7,
               .seconds = 170,
               .adapter_bytes = 330'000,
               .full_model_bytes = 3'210'000};
  data.settings = {{"lora.r", "8"}};
  data.tasks = {{"ask", "Asking", "ask-share", "right", "new things", "questions by answer"},
                {"paint", "Painting", "paint-share", "well done", "", "pictures by colour"}};
  data.notes = {"The frozen model has seen no <clients>."};
  data.clients = {
      {.partition_id = 0, .node_id = 11, .histograms = {{"ask", {{"red", 5}, {"yes", 9}}}}},
      {.partition_id = 1, .node_id = 12, .histograms = {{"ask", {{"red", 0}, {"yes", 3}}}}}};
  AddRound({.number = 0, .train_loss = kNan, .accuracies = {{"ask", 0.68}, {"paint", 0.56}}}, data);
  AddRound({.number = 1,
            .seconds = 3.25,
            .updated = true,
            .train_loss = 0.5,
            .losses = {{"ask", 0.4}},
            .accuracies = {{"ask", 0.8}, {"paint", kNan}},
            .num_nodes = 2,
            .num_accepted = 1,
            .bytes_down = 661'000,
            .bytes_up = 331'900,
            .nodes = {{11, true, "", 330'500, 331'000, 640, 0},
                      {12, false, "loss is NaN", 330'500, 900, 0, 1}}},
           data);
  data.verdicts["ask"] = {{{0.68, 0.47}},
                          {{0.94, 0.92}, 12'800, 1600},
                          {{0.95, 0.93}, 12'800, 400},
                          {{{0.6, 0.4}, 3200, 400}, {{0.7, 0.5}, 3200, 400}}};
  data.verdicts["paint"] = {{{0.56, kNan}},
                            {{0.87, kNan}, 25'600, 1600},
                            {{0.93, kNan}, 25'600, 400},
                            {{{0.6, kNan}, 6400, 400}, {{0.7, kNan}, 6400, 400}}};
  data.samples = {{.task = "ask",
                   .prompt = "what color is it?",
                   .png = "\x89PNG bytes",
                   .truth = "teal",
                   .before = "blue",
                   .after = "teal",
                   .right_after = true},
                  {.task = "paint",
                   .prompt = "paint a teal circle",
                   .png_before = "before",
                   .png_after = "after",
                   .right_after = true}};
  return data;
}

TEST(RunData, SurvivesItsJson) {
  const RunData data = Example();
  ASSERT_OK_AND_ASSIGN(const RunData read, RunDataFromJson(ToJson(data)));
  EXPECT_EQ(ToJson(read), ToJson(data));
  EXPECT_EQ(read.samples[0].png, data.samples[0].png);
  EXPECT_TRUE(std::isnan(read.rounds[1].accuracies.at("paint")));
  EXPECT_EQ(read.rounds[1].nodes[0].reason, "loss is NaN");
}

TEST(RunData, RefusesTextThatIsNoRun) {
  for (const char* text : {"", "{}", "[1]", "{\"name\": 3}", "nul"}) {
    EXPECT_THAT(RunDataFromJson(text), StatusIs(absl::StatusCode::kInvalidArgument)) << text;
  }
}

TEST(RunData, KeepsTheNumberOfExamplesBehindEachReply) {
  ASSERT_OK_AND_ASSIGN(const RunData read, RunDataFromJson(ToJson(Example())));
  EXPECT_EQ(read.rounds[1].nodes[1].num_examples, 640);
  EXPECT_EQ(read.clients[0].num_examples, 640);
}

TEST(RunData, ARoundIsAddedToTheClientsSums) {
  const RunData data = Example();
  EXPECT_EQ(data.clients[0].bytes_up, 331'000u);
  EXPECT_EQ(data.clients[0].accepted, 1);
  EXPECT_EQ(data.clients[1].rejected, 1);
  EXPECT_EQ(data.rounds.back().nodes.front().node_id, 12u) << "rejected replies come first";
}

TEST(RunData, ARoundOfManyNodesIsKeptInBoundedMemory) {
  RunData data;
  RoundData round{.number = 1};
  for (uint64_t i = 0; i < 1000; ++i) {
    round.nodes.push_back({.node_id = 1000 - i, .reason = std::string(10'000, 'x')});
  }
  AddRound(round, data);
  ASSERT_EQ(data.rounds.size(), 1u);
  EXPECT_EQ(data.rounds[0].nodes.size(), kMaxNodesKept);
  EXPECT_LE(data.rounds[0].nodes[0].reason.size(), 300u);
  ASSERT_EQ(data.clients.size(), 1000u);
  EXPECT_EQ(data.clients.front().node_id, 1u);
  AddRound(round, data);
  EXPECT_EQ(data.rounds.size(), 1u) << "the round of the same number is replaced";
  EXPECT_EQ(data.clients.size(), 1000u);
}

TEST(MetricsLine, IsReadBackWithAllNodes) {
  const RunData data = Example();
  const std::string line = RoundLine(data.rounds[1], data.tasks, 12.5);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["event"], "round");
  EXPECT_EQ(json["ask-share"], 0.8);
  EXPECT_FALSE(json.contains("paint-share")) << "it was not measured";
  ASSERT_OK_AND_ASSIGN(const RoundData read, RoundFromLine(line, data.tasks));
  EXPECT_EQ(read.num_nodes, 2);
  EXPECT_EQ(read.num_accepted, 1);
  EXPECT_EQ(read.bytes_up, 331'900u);
  EXPECT_EQ(read.accuracies, (std::map<std::string, double>{{"ask", 0.8}}));
  EXPECT_EQ(read.losses, data.rounds[1].losses);
  EXPECT_TRUE(read.updated);
  EXPECT_THAT(RoundFromLine(line.substr(0, 40), data.tasks),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(Summary, HasTheDocumentedFields) {
  const auto json = nlohmann::json::parse(SummaryJson(Example()));
  EXPECT_EQ(json["ask"]["frozen"], 0.68);
  EXPECT_NEAR(json["ask"]["local_mean"].get<double>(), 0.65, 1e-12);
  EXPECT_EQ(json["paint"]["federated"], 0.87);
  EXPECT_EQ(json["paint"]["centralized"], 0.93);
  EXPECT_EQ(json["ask"]["examples"]["federated"], 12'800);
  EXPECT_EQ(json["ask"]["examples"]["centralized"], 12'800);
  EXPECT_EQ(json["ask"]["steps"]["local_mean"], 400);
  EXPECT_EQ(json["bytes"]["adapter_per_round"], 330'000);
  EXPECT_EQ(json["bytes"]["full_model_per_round"], 3'210'000);
  EXPECT_EQ(json["clients"], 2);
  EXPECT_EQ(json["rounds"], 1);
  EXPECT_EQ(json["seconds"], 170);
  EXPECT_EQ(json["seed"], 7);
}

RunData WithKinds() {
  RunData data = Example();
  data.tasks[1].kinds = {"counting", "two <object>"};
  Verdict& verdict = data.verdicts["paint"];
  verdict.frozen.score.kinds = {{"counting", 0.25}, {"two <object>", 0.5}};
  verdict.federated.score.kinds = {{"counting", 0.75}, {"two <object>", 0.625}};
  for (Bar& bar : verdict.alone) bar.score.kinds = {{"counting", 0.5}};
  return data;
}

TEST(Kinds, AreInTheSummaryTheTableTheReportAndRunJson) {
  const RunData data = WithKinds();
  const auto kinds = nlohmann::json::parse(SummaryJson(data))["paint"]["kinds"];
  EXPECT_EQ(kinds["counting"]["frozen"], 0.25);
  EXPECT_EQ(kinds["counting"]["federated"], 0.75);
  EXPECT_EQ(kinds["counting"]["local_mean"], 0.5);
  EXPECT_TRUE(kinds["counting"]["centralized"].is_null()) << "not measured";
  EXPECT_FALSE(nlohmann::json::parse(SummaryJson(data))["ask"].contains("kinds"));
  EXPECT_THAT(VerdictTable(data), HasSubstr("counting        25.0 %"));
  EXPECT_THAT(ReportHtml(data), HasSubstr("<td>two &lt;object&gt;</td><td class='n'>50.0 %</td>"));
  ASSERT_OK_AND_ASSIGN(const RunData read, RunDataFromJson(ToJson(data)));
  EXPECT_EQ(ToJson(read), ToJson(data));
  EXPECT_EQ(read.verdicts.at("paint").federated.score.OfKind("counting"), 0.75);
}

TEST(Report, SaysWhatEachBarWasGiven) {
  const std::string html = ReportHtml(Example());
  EXPECT_THAT(html, HasSubstr("12,800"));
  EXPECT_THAT(html, HasSubstr("1,600"));
  const std::string table = VerdictTable(Example());
  EXPECT_THAT(table, HasSubstr("12,800"));
  EXPECT_THAT(table, HasSubstr("The frozen model has seen no <clients>."));
}

TEST(Report, TakesTitlesFromTheWorld) {
  const std::string html = ReportHtml(Example());
  for (const char* text : {"Asking", "new things", "questions by answer", "Painting", "well done",
                           "The frozen model has seen no &lt;clients&gt;."}) {
    EXPECT_THAT(html, HasSubstr(text));
  }
}

TEST(Report, EscapesWhatPeersNamed) {
  RunData data = Example();
  data.name = "<script>alert(1)</script>";
  data.samples[0].after = "<img src=x onerror='x'>";
  data.clients[0].histograms["ask"][0].first = "</svg><script>";
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
  EXPECT_THAT(html, Not(HasSubstr("Results on held-out")));
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
  const std::string header = TableHeader(data.tasks);
  const std::string row = TableRow(data.rounds[1], data.tasks);
  EXPECT_EQ(header, "round   nodes     loss      ask    paint   down/node     up/node  seconds");
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

TEST(Format, ThousandsAreSetApart) {
  EXPECT_EQ(Thousands(0), "0");
  EXPECT_EQ(Thousands(999), "999");
  EXPECT_EQ(Thousands(12'800), "12,800");
  EXPECT_EQ(Thousands(1'234'567), "1,234,567");
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
