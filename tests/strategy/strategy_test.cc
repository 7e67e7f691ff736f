#include "fedumm/strategy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fake_grid.h"
#include "fedumm/strategies.h"
#include "tests/testing/status_matchers.h"

namespace fedumm {
namespace {

using ::testing::ElementsAre;
using testing::FakeGrid;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::IsOk;
using ::testing::SizeIs;
using testing::StatusIs;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

Array Floats(const std::vector<float>& values) {
  return Array::FromFloats({static_cast<int64_t>(values.size())}, values);
}
ArrayRecord Model(const std::vector<float>& values) { return {{"w", Floats(values)}}; }

RecordDict TrainContent(ArrayRecord arrays, MetricValue num_examples) {
  return {{"arrays", std::move(arrays)},
          {"metrics", MetricRecord{{"num-examples", std::move(num_examples)}, {"loss", 0.5}}}};
}

const ArrayRecord& ArraysOf(const Message& message) {
  return *message.content->FindArrays("arrays");
}

// Node `id` adds `step` to each weight; evaluates to the first weight.
void AddStepper(FakeGrid& grid, uint64_t id, float step, double num_examples) {
  grid.AddNode(id, [=](const Message& message) -> absl::StatusOr<RecordDict> {
    std::vector<double> values = ArraysOf(message).Find("w")->ToDoubles();
    if (message.metadata.message_type == message_type::kEvaluate) {
      return RecordDict{{"m", MetricRecord{{"num-examples", num_examples}, {"acc", values[0]}}}};
    }
    std::vector<float> next;
    for (const double value : values) next.push_back(static_cast<float>(value) + step);
    return TrainContent(Model(next), num_examples);
  });
}

class StrategyTest : public ::testing::Test {
 protected:
  absl::StatusOr<Result> Start(StartOptions options = {.num_rounds = 1}) {
    return FedAvg(strategy_options_).Start(grid_, Model({0, 10}), std::move(options));
  }

  FakeGrid grid_;
  StrategyOptions strategy_options_;
};

TEST_F(StrategyTest, FedAvgMovesToTheWeightedMeanEachRound) {
  AddStepper(grid_, 2, 1, 1);
  AddStepper(grid_, 3, 5, 3);
  ASSERT_OK_AND_ASSIGN(const Result result, Start({.num_rounds = 2}));
  EXPECT_EQ(result.arrays, Model({8, 18}));  // twice (1 * 1 + 3 * 5) / 4
  ASSERT_THAT(result.rounds, SizeIs(3));
  EXPECT_FALSE(result.rounds[0].updated);
  const RoundResult& last = result.rounds[2];
  EXPECT_TRUE(last.updated);
  EXPECT_EQ(last.number, 2);
  EXPECT_EQ(last.train_metrics, (MetricRecord{{"loss", 0.5}}));
  EXPECT_EQ(last.evaluate_metrics, (MetricRecord{{"acc", 8.0}}));
  ASSERT_THAT(last.nodes, SizeIs(2));
  EXPECT_TRUE(last.nodes[0].accepted);
  EXPECT_EQ(last.nodes[1].node_id, 3);
  EXPECT_EQ(NumberOr(last.nodes[1].metrics, "num-examples", 0), 3);
  EXPECT_EQ(last.nodes[1].traffic.bytes_down, 200);  // of this round: train and evaluate
}

TEST_F(StrategyTest, InstructionsShareTheArraysAndCarryTheConfiguration) {
  AddStepper(grid_, 2, 1, 1);
  AddStepper(grid_, 3, 1, 1);
  strategy_options_.arrayrecord_key = "arrays";
  ASSERT_THAT(Start({.num_rounds = 1,
                     .train_config = {{"lr", 0.1}},
                     .evaluate_config = {{"batch", int64_t{8}}}}),
              IsOk());
  ASSERT_THAT(grid_.sent, SizeIs(4));
  const Message& train = grid_.sent[0];
  EXPECT_EQ(train.metadata.message_type, "train");
  EXPECT_EQ(train.metadata.group_id, "");
  EXPECT_EQ(train.metadata.ttl, 43'200);
  EXPECT_EQ(ArraysOf(train).Find("w")->bytes().data(),
            ArraysOf(grid_.sent[1]).Find("w")->bytes().data());
  EXPECT_EQ(*train.content->FindConfig("config"),
            (ConfigRecord{{"lr", 0.1}, {"server-round", int64_t{1}}}));
  EXPECT_EQ(grid_.sent[2].metadata.message_type, "evaluate");
  EXPECT_EQ(*grid_.sent[2].content->FindConfig("config"),
            (ConfigRecord{{"batch", int64_t{8}}, {"server-round", int64_t{1}}}));
}

TEST_F(StrategyTest, TheOrderOfRepliesChangesNoBit) {
  for (uint64_t id = 2; id < 12; ++id) {
    AddStepper(grid_, id, 0.1f * static_cast<float>(id) / 7, 1 + 37.0 * (id % 5));
  }
  std::optional<Result> first;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    grid_.shuffle_seed = seed;
    ASSERT_OK_AND_ASSIGN(Result result, Start({.num_rounds = 3}));
    if (!first) first = result;
    EXPECT_EQ(result.arrays, first->arrays);
    for (int i = 1; i <= 3; ++i) {
      EXPECT_EQ(result.rounds[i].train_metrics, first->rounds[i].train_metrics);
      EXPECT_EQ(result.rounds[i].evaluate_metrics, first->rounds[i].evaluate_metrics);
    }
  }
}

TEST_F(StrategyTest, NamesOfRecordsAreFree) {
  AddStepper(grid_, 2, 1, 1);
  grid_.AddNode(3, [](const Message&) -> absl::StatusOr<RecordDict> {
    return RecordDict{{"my-metrics", MetricRecord{{"num-examples", 1.0}}},
                      {"a-note", ConfigRecord{{"text", "hello"}}},
                      {"my-arrays", Model({4, 14})}};
  });
  strategy_options_.fraction_evaluate = 0;
  ASSERT_OK_AND_ASSIGN(const Result result, Start());
  EXPECT_EQ(result.arrays, Model({2.5f, 12.5f}));
}

struct BadReply {
  std::string name;
  std::function<absl::StatusOr<RecordDict>()> content;
  std::string reason;
};

class BadReplyTest : public ::testing::TestWithParam<BadReply> {};

TEST_P(BadReplyTest, CostsItsNodeOnlyAndSaysWhy) {
  FakeGrid grid;
  AddStepper(grid, 2, 1, 1);
  AddStepper(grid, 3, 3, 1);
  grid.AddNode(4, [](const Message&) { return GetParam().content(); });
  ASSERT_OK_AND_ASSIGN(const Result result,
                       FedAvg().Start(grid, Model({0, 10}), {.num_rounds = 1}));
  EXPECT_EQ(result.arrays, Model({2, 12}));
  const NodeOutcome& outcome = result.rounds[1].nodes[2];
  EXPECT_EQ(outcome.node_id, 4);
  EXPECT_FALSE(outcome.accepted);
  EXPECT_THAT(outcome.reason, HasSubstr(GetParam().reason));
}

std::vector<BadReply> BadReplies() {
  const auto arrays = [](ArrayRecord record) {
    return [record] { return TrainContent(record, int64_t{1}); };
  };
  const auto weight = [](MetricValue value) {
    return [value] { return TrainContent(Model({7, 7}), value); };
  };
  const MetricRecord one = {{"num-examples", 1.0}};
  const std::string range = "num-examples must be positive and at most 2^40";
  return {
      {"Error", [] { return absl::InternalError("out of\nmemory"); }, "error 2: 'out of\\nmemory'"},
      {"NoArrays",
       [one] {
         return RecordDict{{"m", one}};
       },
       "exactly one ArrayRecord: 0"},
      {"TwoArrays",
       [one] {
         return RecordDict{{"a", Model({1, 1})}, {"b", Model({1, 1})}, {"m", one}};
       },
       "exactly one ArrayRecord: 2"},
      {"NoMetrics",
       [] {
         return RecordDict{{"a", Model({1, 1})}};
       },
       "exactly one MetricRecord: 0"},
      {"TwoMetrics",
       [one] {
         return RecordDict{{"a", Model({1, 1})}, {"m", one}, {"n", one}};
       },
       "exactly one MetricRecord: 2"},
      {"Nan", arrays(Model({1, std::nanf("")})), "'w' has NaN or infinity at index 1"},
      {"WrongShape", arrays({{"w", Array::FromFloats({1, 2}, std::vector<float>{1, 2})}}),
       "'w' has shape [1, 2], not [2]"},
      {"Broadcastable", arrays(Model({1})), "'w' has shape [1], not [2]"},
      {"WrongDtype", arrays({{"w", Array::FromDoubles({2}, std::vector<double>{1, 2})}}),
       "'w' has dtype float64, not float32"},
      {"WrongKey", arrays({{"v", Floats({1, 2})}}), "lacks tensor 'w'"},
      {"ExtraKey", arrays({{"w", Floats({1, 2})}, {"v", Floats({1, 2})}}), "unknown tensor 'v'"},
      {"WeightMissing",
       [] {
         return RecordDict{{"a", Model({1, 1})}, {"m", MetricRecord{{"loss", 1.0}}}};
       },
       "num-examples is missing"},
      {"WeightNegative", weight(int64_t{-5}), range + ": -5"},
      {"WeightZero", weight(int64_t{0}), range + ": 0"},
      {"WeightNan", weight(kNan), range + ": nan"},
      {"WeightHuge", weight(uint64_t{1} << 62), range},
      {"WeightList", weight(std::vector<int64_t>{1}), "num-examples is a list"},
      {"EndlessMetrics",
       []() -> absl::StatusOr<RecordDict> {
         RecordDict content = TrainContent(Model({7, 7}), int64_t{1});
         MetricRecord metrics = *content.FindMetrics("metrics");
         metrics.Set("losses", std::vector<double>(20'000, 0.5));
         content.Set("metrics", metrics);
         return content;
       },
       "too many metrics"},
  };
}

INSTANTIATE_TEST_SUITE_P(All, BadReplyTest, ::testing::ValuesIn(BadReplies()),
                         [](const auto& info) { return info.param.name; });

TEST_F(StrategyTest, ASilentNodeIsLeftOutAndItsInstructionWithdrawn) {
  AddStepper(grid_, 2, 1, 1);
  grid_.nodes[3] = [](const Message&) { return std::nullopt; };
  ASSERT_OK_AND_ASSIGN(const Result result, Start());
  EXPECT_EQ(result.arrays, Model({1, 11}));
  EXPECT_EQ(result.rounds[1].nodes[1].reason, "no reply in time");
  EXPECT_THAT(grid_.withdrawn, ElementsAre("m1", "m3"));
}

TEST_F(StrategyTest, RepliesOfNodesThatWereNotAskedAreIgnored) {
  AddStepper(grid_, 2, 1, 1);
  AddStepper(grid_, 3, 1, 1);
  const FakeGrid::Node honest = grid_.nodes[3];
  grid_.nodes[3] = [honest](const Message& instruction) {
    std::optional<Message> reply = honest(instruction);
    reply->metadata.src_node_id = 2;  // which has answered already
    return reply;
  };
  ASSERT_OK_AND_ASSIGN(const Result result, Start());
  EXPECT_TRUE(result.rounds[1].nodes[0].accepted);
  EXPECT_FALSE(result.rounds[1].nodes[1].accepted);
}

TEST_F(StrategyTest, BelowTheQuorumTheModelStays) {
  AddStepper(grid_, 2, 1, 1);
  AddStepper(grid_, 3, 1, 1);
  grid_.AddNode(4, [](const Message&) { return absl::InternalError("broken"); });
  ASSERT_OK_AND_ASSIGN(const Result missed, Start({.num_rounds = 1, .quorum = 3}));
  EXPECT_EQ(missed.arrays, Model({0, 10}));
  EXPECT_FALSE(missed.rounds[1].updated);
  ASSERT_OK_AND_ASSIGN(const Result met, Start({.num_rounds = 1, .quorum = 2}));
  EXPECT_EQ(met.arrays, Model({1, 11}));
}

TEST_F(StrategyTest, IfNobodyIsAcceptedTheModelStaysAndTheRunGoesOn) {
  grid_.AddNode(2, [](const Message&) { return absl::InternalError("broken"); });
  grid_.AddNode(3, [](const Message&) { return TrainContent(Model({1, 1}), int64_t{0}); });
  ASSERT_OK_AND_ASSIGN(const Result result, Start({.num_rounds = 2}));
  EXPECT_EQ(result.arrays, Model({0, 10}));
  EXPECT_FALSE(result.rounds[2].updated);
  EXPECT_THAT(result.rounds[2].train_metrics, IsEmpty());
}

TEST_F(StrategyTest, WaitsForEnoughNodesAndGivesUpAtTheDeadline) {
  AddStepper(grid_, 2, 1, 1);
  strategy_options_.min_available_nodes = 3;
  strategy_options_.min_evaluate_nodes = 4;
  EXPECT_THAT(Start({.num_rounds = 1, .wait_for_nodes = absl::Seconds(5)}),
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       HasSubstr("1 nodes online after 5s, 3 needed")));
  grid_.on_wait = [this] {
    for (uint64_t id = 3; id < 6; ++id) AddStepper(grid_, id, 1, 1);
  };
  EXPECT_THAT(Start(), IsOk());
  EXPECT_THAT(grid_.wanted_nodes, ElementsAre(3, 3, 4));
}

TEST_F(StrategyTest, AFractionOfZeroSkipsThePhase) {
  AddStepper(grid_, 2, 1, 1);
  AddStepper(grid_, 3, 1, 1);
  strategy_options_.fraction_train = 0;
  ASSERT_OK_AND_ASSIGN(const Result result, Start());
  EXPECT_THAT(grid_.sent, SizeIs(2));
  EXPECT_EQ(grid_.sent[0].metadata.message_type, "evaluate");
  EXPECT_EQ(result.rounds[1].evaluate_metrics, (MetricRecord{{"acc", 0.0}}));
  EXPECT_THAT(result.rounds[1].nodes, IsEmpty());
}

TEST_F(StrategyTest, SelectTakesASeededSampleOfTheRightSize) {
  const ArrayRecord arrays;
  const auto select = [&](int64_t number, uint64_t seed, std::string_view phase, double fraction,
                          int64_t min_nodes) {
    std::vector<uint64_t> online(100);
    for (size_t i = 0; i < online.size(); ++i) online[i] = 2 + i;
    const Round round = {
        .number = number, .num_rounds = 9, .seed = seed, .arrays = arrays, .phase = phase};
    return FedAvg().Select(round, online, fraction, min_nodes);
  };
  const std::vector<uint64_t> sample = select(1, 5, "train", 0.128, 2);
  EXPECT_THAT(sample, SizeIs(12));
  EXPECT_TRUE(std::is_sorted(sample.begin(), sample.end()));
  EXPECT_EQ(select(1, 5, "train", 0.128, 2), sample);
  EXPECT_NE(select(2, 5, "train", 0.128, 2), sample);
  EXPECT_NE(select(1, 6, "train", 0.128, 2), sample);
  EXPECT_NE(select(1, 5, "evaluate", 0.128, 2), sample);
  EXPECT_THAT(select(1, 5, "train", 0.001, 7), SizeIs(7));
  EXPECT_THAT(select(1, 5, "train", 1, 2), SizeIs(100));
}

TEST_F(StrategyTest, EvaluateFnRunsBeforeTheFirstRoundAndAfterEach) {
  AddStepper(grid_, 2, 1, 1);
  AddStepper(grid_, 3, 1, 1);
  std::vector<int64_t> reported;
  ASSERT_OK_AND_ASSIGN(
      const Result result,
      Start({.num_rounds = 2,
             .evaluate_fn = [](int64_t round,
                               const ArrayRecord& arrays) -> absl::StatusOr<MetricRecord> {
               return MetricRecord{{"round", round}, {"w", arrays.Find("w")->ToDoubles()[0]}};
             },
             .on_round = [&](const RoundResult& round) { reported.push_back(round.number); }}));
  for (int64_t i = 0; i <= 2; ++i) {
    EXPECT_EQ(result.rounds[i].server_metrics,
              (MetricRecord{{"round", i}, {"w", static_cast<double>(i)}}));
  }
  EXPECT_THAT(reported, ElementsAre(0, 1, 2));
}

TEST_F(StrategyTest, ErrorsOfTheGridAndOfEvaluateFnEndTheRun) {
  AddStepper(grid_, 2, 1, 1);
  AddStepper(grid_, 3, 1, 1);
  EXPECT_THAT(
      Start({.num_rounds = 1,
             .evaluate_fn = [](int64_t, const ArrayRecord&) -> absl::StatusOr<MetricRecord> {
               return absl::DataLossError("no images");
             }}),
      StatusIs(absl::StatusCode::kDataLoss, "no images"));
  grid_.push_status = absl::CancelledError("stopping");
  EXPECT_THAT(Start(), StatusIs(absl::StatusCode::kCancelled, "stopping"));
}

TEST_F(StrategyTest, ImpossibleOptionsAreRefusedByName) {
  const auto refused = [](auto message) {
    return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message));
  };
  EXPECT_THAT(Start({.num_rounds = -1}), refused("num_rounds must not be negative: -1"));
  EXPECT_THAT(Start({.quorum = 0}), refused("quorum must be at least 1: 0"));
  EXPECT_THAT(Start({.timeout = absl::ZeroDuration()}), refused("timeout must be positive"));
  strategy_options_.fraction_train = 1.5;
  EXPECT_THAT(Start(), refused("fraction_train must be from 0 to 1: 1.5"));
  strategy_options_.fraction_train = kNan;
  EXPECT_THAT(Start(), refused("fraction_train"));
  strategy_options_ = {.fraction_evaluate = -0.5};
  EXPECT_THAT(Start(), refused("fraction_evaluate"));
}

TEST_F(StrategyTest, ASubclassMayConfigureEachNode) {
  class Proximal final : public FedAvg {
    ConfigRecord ConfigureTrain(const Round& round, uint64_t node_id) override {
      return {{"proximal-mu", 0.1 * static_cast<double>(round.number)},
              {"node", static_cast<int64_t>(node_id)}};
    }
  };
  AddStepper(grid_, 2, 1, 1);
  AddStepper(grid_, 3, 1, 1);
  ASSERT_THAT(Proximal().Start(grid_, Model({0}), {.num_rounds = 1}), IsOk());
  EXPECT_EQ(
      *grid_.sent[1].content->FindConfig("config"),
      (ConfigRecord{{"server-round", int64_t{1}}, {"proximal-mu", 0.1}, {"node", int64_t{3}}}));
}

MetricRecord Metrics(double weight, double loss, std::vector<double> list) {
  return {{"num-examples", weight}, {"loss", loss}, {"list", std::move(list)}};
}

TEST(WeightedMetricsMeanTest, HandWorkedNumbers) {
  const std::vector<NodeMetrics> replies = {
      {2, Metrics(1, 3, {1, 2})},
      {3, Metrics(3, 7, {5, 2})},
      {4, {{"num-examples", int64_t{4}}, {"extra", int64_t{9}}}},
  };
  EXPECT_EQ(WeightedMetricsMean(replies, "num-examples"),
            (MetricRecord{{"loss", 6.0}, {"list", std::vector<double>{4, 2}}, {"extra", 9.0}}));
}

TEST(WeightedMetricsMeanTest, LeavesOutWhatIsNotFiniteOrOfAnotherForm) {
  const std::vector<NodeMetrics> replies = {
      {2, Metrics(1, 3, {1, 2})},
      {3, Metrics(1, kNan, {1, 2, 3})},
      {4, {{"num-examples", 1.0}, {"list", 5.0}, {"hopeless", kNan}}},
      {5, {{"num-examples", -1.0}, {"loss", 100.0}}},
  };
  EXPECT_EQ(WeightedMetricsMean(replies, "num-examples"),
            (MetricRecord{{"loss", 3.0}, {"list", std::vector<double>{1, 2}}}));
}

TEST(WeightedMetricsMeanTest, AnyOrderGivesTheSameBits) {
  Random random(3);
  std::vector<NodeMetrics> replies;
  for (uint64_t id = 2; id < 30; ++id) {
    replies.push_back(
        {id, Metrics(1 + random.Uniform() * 100, random.Normal(), {random.Normal()})});
  }
  const MetricRecord first = WeightedMetricsMean(replies, "num-examples");
  for (int i = 0; i < 20; ++i) {
    random.Shuffle(replies);
    EXPECT_EQ(WeightedMetricsMean(replies, "num-examples"), first);
  }
}

}  // namespace
}  // namespace fedumm
