#include "fedumm/strategy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

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
  int round_ = 0;
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

TEST_F(StrategyTest, ATensorIsAveragedOverTheNodesThatTrainedIt) {
  const auto reply = [](float a, float b, double weight, std::vector<double> shares) {
    return [=](const Message&) -> absl::StatusOr<RecordDict> {
      RecordDict content = TrainContent({{"a", Floats({a})}, {"b", Floats({b})}}, weight);
      content.Set(kTensorSharesRecord, ConfigRecord{{kTensorSharesKey, shares}});
      return content;
    };
  };
  grid_.AddNode(2, reply(1, 5, 10, {1, 0.2}));
  grid_.AddNode(3, reply(4, 9, 5, {1, 0}));
  grid_.AddNode(4, reply(4, 9, 5, {1}));
  strategy_options_.fraction_evaluate = 0;
  ASSERT_OK_AND_ASSIGN(
      const Result result,
      FedAvg(strategy_options_)
          .Start(grid_, {{"a", Floats({0})}, {"b", Floats({0})}}, {.num_rounds = 1}));
  EXPECT_EQ(result.arrays, (ArrayRecord{{"a", Floats({2})}, {"b", Floats({5})}}));
  EXPECT_THAT(result.rounds[1].nodes[2].reason, HasSubstr("1 shares for 2 tensors"));
}

TEST_F(StrategyTest, NodesEvaluateAsOftenAsAskedAndAfterTheLastRound) {
  AddStepper(grid_, 2, 1, 1);
  AddStepper(grid_, 3, 1, 1);
  const auto rounds_with_figures = [&](int64_t every) {
    const Result result = Start({.num_rounds = 5, .evaluate_every = every}).value();
    std::vector<int64_t> numbers;
    for (const RoundResult& round : result.rounds) {
      if (!round.evaluate_metrics.empty()) numbers.push_back(round.number);
    }
    return numbers;
  };
  EXPECT_THAT(rounds_with_figures(1), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(rounds_with_figures(2), ElementsAre(2, 4, 5));
  EXPECT_THAT(rounds_with_figures(0), ElementsAre(5));
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
       "exactly one ArrayRecord: 2 (or name one 'arrays')"},
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

TEST_F(StrategyTest, ANodeWithoutAReplyIsLeftOutAndItsInstructionWithdrawn) {
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
  const FakeGrid::Node broken = grid_.nodes[4];
  AddStepper(grid_, 4, 1, 1);
  ASSERT_OK_AND_ASSIGN(const Result missed,
                       Start({.num_rounds = 2, .quorum = 3, .on_round = [&](const RoundResult&) {
                                if (round_++ == 1) grid_.nodes[4] = broken;
                              }}));
  EXPECT_EQ(missed.arrays, Model({1, 11}));
  EXPECT_TRUE(missed.rounds[1].updated);
  EXPECT_FALSE(missed.rounds[2].updated);
  ASSERT_OK_AND_ASSIGN(const Result met, Start({.num_rounds = 1, .quorum = 2}));
  EXPECT_EQ(met.arrays, Model({1, 11}));
}

TEST_F(StrategyTest, ARoundWithoutAnAcceptedReplyLeavesTheModelAndTheRunGoesOn) {
  AddStepper(grid_, 2, 1, 1);
  grid_.AddNode(3, [](const Message&) { return TrainContent(Model({1, 1}), int64_t{0}); });
  const FakeGrid::Node honest = grid_.nodes[2];
  grid_.AddNode(2, [](const Message&) { return absl::InternalError("broken"); });
  ASSERT_OK_AND_ASSIGN(const Result result,
                       Start({.num_rounds = 2, .on_round = [&](const RoundResult& round) {
                                if (round.number == 1) grid_.nodes[2] = honest;
                              }}));
  EXPECT_FALSE(result.rounds[1].updated);
  EXPECT_THAT(result.rounds[1].train_metrics, IsEmpty());
  EXPECT_TRUE(result.rounds[2].updated);
  EXPECT_EQ(result.arrays, Model({1, 11}));
}

TEST_F(StrategyTest, ARunThatNeverAcceptedAReplyIsFailedPrecondition) {
  grid_.AddNode(2, [](const Message&) { return absl::InternalError("broken"); });
  grid_.AddNode(3, [](const Message&) { return TrainContent(Model({1, 1}), int64_t{0}); });
  EXPECT_THAT(Start({.num_rounds = 2}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       ::testing::AllOf(
                           HasSubstr("no reply was ever accepted in 2 rounds: the model is the "
                                     "one that it began with (node 2: "),
                           HasSubstr("broken"))));
  EXPECT_THAT(Start({.num_rounds = 0}), IsOk());
}

TEST_F(StrategyTest, ARunWithoutAQuorumInAnyRoundIsFailedPrecondition) {
  AddStepper(grid_, 2, 1, 1);
  AddStepper(grid_, 3, 1, 1);
  EXPECT_THAT(Start({.num_rounds = 2, .quorum = 3}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("in none of 2 rounds were 3 replies accepted")));
}

TEST_F(StrategyTest, WaitsForEnoughNodesAndGivesUpAtTheDeadline) {
  AddStepper(grid_, 2, 1, 1);
  strategy_options_.min_available_nodes = 3;
  strategy_options_.min_evaluate_nodes = 4;
  EXPECT_THAT(Start({.num_rounds = 1, .wait_for_nodes = absl::Milliseconds(1)}),
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       HasSubstr("round 1: 1 nodes online after 1ms, 3 needed")));
  grid_.wanted_nodes.clear();
  grid_.on_wait = [this] {
    for (uint64_t id = 3; id < 6; ++id) AddStepper(grid_, id, 1, 1);
  };
  EXPECT_THAT(Start(), IsOk());
  EXPECT_THAT(grid_.wanted_nodes, ElementsAre(3, 4));
}

TEST_F(StrategyTest, OnWaitTellsHowManyNodesAreOnlineWheneverThatChanges) {
  AddStepper(grid_, 2, 1, 1);
  strategy_options_.min_available_nodes = 3;
  std::vector<std::pair<int64_t, int64_t>> waits;
  const auto on_wait = [&](int64_t online, int64_t needed) {
    waits.emplace_back(online, needed);
    AddStepper(grid_, 2 + static_cast<uint64_t>(online), 1, 1);
  };
  ASSERT_THAT(Start({.num_rounds = 1, .on_wait = on_wait}), IsOk());
  EXPECT_THAT(waits, ElementsAre(std::pair(1, 3), std::pair(2, 3)));
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
  class PerNode final : public FedAvg {
    RecordDict Instruct(const Round& round, uint64_t node_id) override {
      asked.insert(round.nodes.begin(), round.nodes.end());
      RecordDict content = round.content;
      ConfigRecord config = *content.FindConfig("config");
      config.Set("node", static_cast<int64_t>(node_id));
      content.Set("config", std::move(config));
      return content;
    }

   public:
    std::set<uint64_t> asked;
  };
  AddStepper(grid_, 2, 1, 1);
  AddStepper(grid_, 3, 1, 1);
  PerNode strategy;
  ASSERT_THAT(strategy.Start(grid_, Model({0}),
                             {.num_rounds = 1, .evaluate_config = {{"batch", int64_t{8}}}}),
              IsOk());
  EXPECT_THAT(strategy.asked, ElementsAre(2, 3));
  EXPECT_EQ(*grid_.sent[1].content->FindConfig("config"),
            (ConfigRecord{{"server-round", int64_t{1}}, {"node", int64_t{3}}}));
  EXPECT_EQ(grid_.sent[2].metadata.message_type, "evaluate");
  EXPECT_EQ(
      *grid_.sent[2].content->FindConfig("config"),
      (ConfigRecord{{"batch", int64_t{8}}, {"server-round", int64_t{1}}, {"node", int64_t{2}}}));
}

TEST_F(StrategyTest, NodesThatAreSentTheSameShareOneRecordDict) {
  for (uint64_t id = 2; id < 5; ++id) AddStepper(grid_, id, 1, 1);
  ASSERT_THAT(Start(), IsOk());
  ASSERT_THAT(grid_.sent, SizeIs(6));
  for (const size_t phase : {0, 3}) {
    EXPECT_TRUE(grid_.sent[phase].content->SharesStorage(*grid_.sent[phase + 1].content));
    EXPECT_TRUE(grid_.sent[phase].content->SharesStorage(*grid_.sent[phase + 2].content));
  }
  EXPECT_FALSE(grid_.sent[0].content->SharesStorage(*grid_.sent[3].content));
}

// A strategy whose Step returns what the test wants.
class Stepping final : public FedAvg {
 public:
  using Body = std::function<ArrayRecord(const ArrayRecord& aggregate)>;
  explicit Stepping(Body body) : FedAvg({.fraction_evaluate = 0}), body_(std::move(body)) {}
  absl::StatusOr<ArrayRecord> Step(const Round&, ArrayRecord aggregate) override {
    return body_(aggregate);
  }

 private:
  Body body_;
};

TEST_F(StrategyTest, WhatStepReturnsInAnotherFloatTypeBecomesTheTypeOfTheModel) {
  AddStepper(grid_, 2, 1, 1);
  AddStepper(grid_, 3, 1, 1);
  Stepping strategy([](const ArrayRecord& aggregate) {
    std::vector<double> values = aggregate.Find("w")->ToDoubles();
    for (double& value : values) value += 1e-12;  // less than half a step of float32
    return ArrayRecord{{"w", Array::FromDoubles({2}, values)}};
  });
  ASSERT_OK_AND_ASSIGN(const Result result,
                       strategy.Start(grid_, Model({0, 10}), {.num_rounds = 3}));
  EXPECT_EQ(result.arrays, Model({3, 13}));
  for (int i = 1; i <= 3; ++i) EXPECT_TRUE(result.rounds[i].updated);
}

TEST_F(StrategyTest, AModelOfAnotherFormFromStepEndsTheRunAndNamesTheTensor) {
  AddStepper(grid_, 2, 1, 1);
  AddStepper(grid_, 3, 1, 1);
  const auto error = [&](ArrayRecord next) {
    return Stepping([next](const ArrayRecord&) { return next; })
        .Start(grid_, Model({0, 10}), {.num_rounds = 3})
        .status();
  };
  const auto refused = [](auto message) {
    return StatusIs(absl::StatusCode::kInvalidArgument,
                    HasSubstr(std::string("round 1: what Step returned ") + message));
  };
  EXPECT_THAT(error({}), refused("lacks tensor 'w'"));
  EXPECT_THAT(error({{"w", Floats({1, 2})}, {"v", Floats({1})}}),
              refused("has unknown tensor 'v'"));
  EXPECT_THAT(error(Model({1})), refused("has tensor 'w' of shape [1], not [2]"));
  EXPECT_THAT(error(Model({1, NAN})), refused("has tensor 'w' with NaN or infinity at index 1"));
  EXPECT_THAT(error({{"w", Array::FromDoubles({2}, {{1, 1e200}})}}),
              refused("has tensor 'w' that is not finite as float32 at index 1"));
  EXPECT_THAT(error({{"w", *Array::Create(DType::kInt32, {2}, std::string(8, '\0'))}}),
              refused("has tensor 'w' of dtype int32, not float32"));
}

TEST_F(StrategyTest, TensorsOfAReplyAreMatchedByName) {
  for (const uint64_t id : {2, 3}) {
    grid_.AddNode(id, [](const Message&) -> absl::StatusOr<RecordDict> {
      return TrainContent({{"a", Floats({2})}, {"b", Floats({1})}}, int64_t{1});
    });
  }
  const ArrayRecord initial = {{"b", Floats({0})}, {"a", Floats({0})}};
  ASSERT_OK_AND_ASSIGN(const Result result,
                       FedAvg({.fraction_evaluate = 0}).Start(grid_, initial, {.num_rounds = 1}));
  EXPECT_EQ(result.arrays, (ArrayRecord{{"b", Floats({1})}, {"a", Floats({2})}}));
}

TEST_F(StrategyTest, RepliesInANarrowerFloatTypeAreAcceptedExactly) {
  for (const uint64_t id : {2, 3}) {
    grid_.AddNode(id, [](const Message&) -> absl::StatusOr<RecordDict> {
      return TrainContent(Model({0.1f, 0.25f}), int64_t{1});
    });
  }
  ASSERT_OK_AND_ASSIGN(
      const Result result,
      FedAvg({.fraction_evaluate = 0})
          .Start(grid_, {{"w", Array::FromDoubles({2}, {{0, 0}})}}, {.num_rounds = 2}));
  EXPECT_EQ(result.arrays, (ArrayRecord{{"w", Array::FromDoubles({2}, {{double{0.1f}, 0.25}})}}));
}

TEST_F(StrategyTest, TheArraysUnderTheStrategysKeyAreTheMainOnesOfSeveral) {
  class Reading final : public FedAvg {
    class Sums final : public Aggregator {
     public:
      explicit Sums(std::vector<double>& extra) : Aggregator(Model({0, 0})), extra_(extra) {}

     private:
      absl::Status DoAdd(const Contribution& contribution) override {
        last_ = contribution.arrays;
        extra_.push_back(contribution.content.FindArrays("control")->Find("c")->ToDoubles()[0]);
        extra_.push_back(NumberOr(contribution.metrics, "loss", -1));
        return absl::OkStatus();
      }
      absl::StatusOr<ArrayRecord> DoTakeResult() override { return last_; }

      std::vector<double>& extra_;
      ArrayRecord last_;
    };
    std::unique_ptr<Aggregator> NewAggregator(const Round&) override {
      return std::make_unique<Sums>(extra);
    }

   public:
    using FedAvg::FedAvg;
    std::vector<double> extra;
  };
  for (const uint64_t id : {2, 3}) {
    grid_.AddNode(id, [](const Message&) -> absl::StatusOr<RecordDict> {
      RecordDict content = {{"control", ArrayRecord{{"c", Floats({7})}}}};
      for (const auto& [name, record] : TrainContent(Model({4, 5}), int64_t{1})) {
        content.Set(name, record);
      }
      return content;
    });
  }
  Reading strategy({.fraction_evaluate = 0});
  ASSERT_OK_AND_ASSIGN(const Result result,
                       strategy.Start(grid_, Model({0, 10}), {.num_rounds = 1}));
  EXPECT_EQ(result.arrays, Model({4, 5}));
  EXPECT_THAT(strategy.extra, ElementsAre(7, 0.5, 7, 0.5));
}

// Tries three steps and takes the one that the nodes like best: the second exchange of the round.
class LineSearch final : public FedAvg {
 public:
  LineSearch() : FedAvg({.fraction_evaluate = 0}) {}

  absl::StatusOr<ArrayRecord> Step(const Round& round, ArrayRecord aggregate) override {
    ArrayRecord best = aggregate;
    double best_loss = std::numeric_limits<double>::infinity();
    for (const double scale : {1.0, 2.0, 4.0}) {
      const double x = round.arrays.Find("w")->ToDoubles()[0];
      const double mean = aggregate.Find("w")->ToDoubles()[0];
      const ArrayRecord candidate = {
          {"w", Array::FromDoublesLike(*aggregate.Find("w"), {{x + scale * (mean - x)}})}};
      RecordDict content = round.content;
      content.Set("arrays", candidate);
      double loss = 0;
      absl::StatusOr<Gathered> gathered = Gather(
          "evaluate.probe", round.nodes, [&](uint64_t) { return content; },
          [&](uint64_t, const Message& reply) {
            if (reply.has_error()) return absl::UnavailableError(reply.error->reason);
            loss += NumberOr(*reply.content->FindMetrics("metrics"), "loss", 0);
            return absl::OkStatus();
          },
          quorum);
      if (!gathered.ok()) return gathered.status();
      outcomes.push_back(*gathered);
      if (gathered->has_quorum && loss < best_loss) {
        best_loss = loss;
        best = candidate;
      }
    }
    return best;
  }

  GatherOptions quorum;
  std::vector<Gathered> outcomes;
};

void AddSearcher(FakeGrid& grid, uint64_t id, double goal) {
  grid.AddNode(id, [=](const Message& message) -> absl::StatusOr<RecordDict> {
    const double x = ArraysOf(message).Find("w")->ToDoubles()[0];
    if (message.metadata.message_type == "evaluate.probe") {
      return RecordDict{{"metrics", MetricRecord{{"loss", (x - goal) * (x - goal)}}}};
    }
    return TrainContent(Model({static_cast<float>(x + 0.25 * (goal - x))}), int64_t{1});
  });
}

TEST_F(StrategyTest, AStrategyMayAskTheNodesAgainWithinARound) {
  AddSearcher(grid_, 2, 7);
  AddSearcher(grid_, 3, 9);
  LineSearch strategy;
  ASSERT_OK_AND_ASSIGN(const Result result, strategy.Start(grid_, Model({0}), {.num_rounds = 1}));
  EXPECT_EQ(result.arrays, Model({8}));  // four times the step of the mean
  EXPECT_THAT(grid_.sent, SizeIs(2 + 3 * 2));
  ASSERT_THAT(strategy.outcomes, SizeIs(3));
  EXPECT_EQ(strategy.outcomes[0].num_accepted, 2);
  EXPECT_TRUE(strategy.outcomes[0].has_quorum);
  EXPECT_EQ(strategy.outcomes[0].nodes[1].node_id, 3);
}

TEST_F(StrategyTest, TooFewRepliesOfAGatherAreNoError) {
  AddSearcher(grid_, 2, 7);
  AddSearcher(grid_, 3, 9);
  LineSearch strategy;
  strategy.quorum = {.quorum = 3, .deadline = absl::Seconds(1)};
  ASSERT_OK_AND_ASSIGN(const Result result, strategy.Start(grid_, Model({0}), {.num_rounds = 1}));
  EXPECT_EQ(result.arrays, Model({2}));  // the mean itself
  EXPECT_FALSE(strategy.outcomes[0].has_quorum);
}

TEST_F(StrategyTest, ANodeThatFailsInAGatherIsLeftOutWithItsReason) {
  AddSearcher(grid_, 2, 7);
  grid_.AddNode(3, [](const Message& message) -> absl::StatusOr<RecordDict> {
    if (message.metadata.message_type == "evaluate.probe") return absl::InternalError("no probe");
    return TrainContent(Model({1}), int64_t{1});
  });
  LineSearch strategy;
  ASSERT_THAT(strategy.Start(grid_, Model({0}), {.num_rounds = 1}), IsOk());
  EXPECT_EQ(strategy.outcomes[0].num_accepted, 1);
  EXPECT_THAT(strategy.outcomes[0].nodes[1].reason, HasSubstr("no probe"));
}

TEST_F(StrategyTest, GatherIsRefusedOutsideOfStartAndWithinAnExchange) {
  class Nested final : public FedAvg {
   public:
    absl::Status Try() {
      return Gather(
                 "query", {2}, [](uint64_t) { return RecordDict(); },
                 [](uint64_t, const Message&) { return absl::OkStatus(); })
          .status();
    }
    RecordDict Instruct(const Round& round, uint64_t) override {
      in_instruct = Try();
      return round.content;
    }
    absl::Status in_instruct;
  };
  AddStepper(grid_, 2, 1, 1);
  AddStepper(grid_, 3, 1, 1);
  Nested strategy;
  EXPECT_THAT(strategy.Try(), StatusIs(absl::StatusCode::kFailedPrecondition));
  ASSERT_THAT(strategy.Start(grid_, Model({0}), {.num_rounds = 1}), IsOk());
  EXPECT_THAT(strategy.in_instruct, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(strategy.Try(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(grid_.sent, SizeIs(4));
}

TEST_F(StrategyTest, TheResultKeepsRoundZeroAndTheMostRecentRounds) {
  AddStepper(grid_, 2, 1, 1);
  AddStepper(grid_, 3, 1, 1);
  std::vector<int64_t> reported;
  ASSERT_OK_AND_ASSIGN(
      const Result result,
      Start({.num_rounds = 6,
             .on_round = [&](const RoundResult& r) { reported.push_back(r.number); },
             .keep_rounds = 2}));
  EXPECT_THAT(reported, ElementsAre(0, 1, 2, 3, 4, 5, 6));
  std::vector<int64_t> kept;
  for (const RoundResult& round : result.rounds) kept.push_back(round.number);
  EXPECT_THAT(kept, ElementsAre(0, 5, 6));
}

TEST_F(StrategyTest, FedProxSendsFlowersKeyInTheTrainPhaseOnly) {
  AddStepper(grid_, 2, 1, 1);
  AddStepper(grid_, 3, 1, 1);
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Strategy> strategy,
                       NewStrategy("fedprox", {}, {{"strategy.proximal-mu", 0.25}}));
  ASSERT_THAT(strategy->Start(grid_, Model({0}), {.num_rounds = 1}), IsOk());
  EXPECT_EQ(*grid_.sent[0].content->FindConfig("config"),
            (ConfigRecord{{"server-round", int64_t{1}}, {"proximal-mu", 0.25}}));
  EXPECT_EQ(*grid_.sent[2].content->FindConfig("config"),
            (ConfigRecord{{"server-round", int64_t{1}}}));
}

TEST_F(StrategyTest, FedAvgMTakesHandWorkedStepsWithMomentum) {
  AddStepper(grid_, 2, 1, 1);
  AddStepper(grid_, 3, 3, 1);
  ASSERT_OK_AND_ASSIGN(
      const std::unique_ptr<Strategy> strategy,
      NewStrategy("fedavgm", {},
                  {{"strategy.server-momentum", 0.5}, {"strategy.server-learning-rate", 2.0}}));
  ASSERT_OK_AND_ASSIGN(const Result result, strategy->Start(grid_, Model({0}), {.num_rounds = 3}));
  // v = -2, -3, -3.5; x = 4, 10, 17
  EXPECT_EQ(result.arrays, Model({17}));
  EXPECT_EQ(strategy->SaveState(), (ArrayRecord{{"w", Array::FromDoubles({1}, {{-3.5}})}}));
}

TEST(FedAvgMomentumTest, AnAggregateOfAnotherFormIsRefusedByName) {
  const ArrayRecord model = {{"w", Array::FromFloats({1}, {{1}})}};
  const Round round = {.arrays = model};
  FedAvgMomentum strategy({}, /*server_learning_rate=*/0.5, /*server_momentum=*/0.9);
  EXPECT_THAT(strategy.Step(round, {{"v", Array::FromFloats({1}, {{1}})}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'v' is not in the model")));
  EXPECT_THAT(strategy.Step(round, {{"w", Array::FromFloats({2}, {{1, 2}})}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'w' has another shape")));
}

TEST(NewStrategyTest, EveryNameGivesAStrategy) {
  EXPECT_THAT(StrategyNames(), ElementsAre("fedavg", "fedprox", "fedavgm"));
  for (const std::string& name : StrategyNames()) {
    EXPECT_THAT(NewStrategy(name, {.min_train_nodes = 7}), IsOk()) << name;
    EXPECT_EQ((*NewStrategy(name, {.min_train_nodes = 7}))->options().min_train_nodes, 7);
  }
}

TEST(NewStrategyTest, WhatIsNotKnownOrNotUsedIsRefusedByName) {
  const auto refused = [](auto message) {
    return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message));
  };
  EXPECT_THAT(NewStrategy("fedadam", {}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("'fedadam', known are fedavg")));
  EXPECT_THAT(NewStrategy("fedprox", {}, {{"strategy.proximal_mu", 0.1}}),
              refused("'strategy.proximal_mu' (did you mean 'strategy.proximal-mu'?)"));
  EXPECT_THAT(NewStrategy("fedprox", {}, {{"strategy.proximal-mu", -0.1}}),
              refused("'strategy.proximal-mu' must be a number from 0"));
  EXPECT_THAT(NewStrategy("fedavg", {}, {{"strategy.proximal-mu", 0.1}}),
              refused("'strategy.proximal-mu' is a setting of fedprox, fedavg does not use it"));
  EXPECT_THAT(NewStrategy("fedavg", {}, {{"strategy.proximal-mu", 0.0}, {"train.x", 1.0}}), IsOk());
}

MetricRecord Metrics(double weight, double loss, std::vector<double> list) {
  return {{"num-examples", weight}, {"loss", loss}, {"list", std::move(list)}};
}

TEST(MetricsOverNodesTest, TellsHowTheNodesDiffer) {
  const MetricRecord metrics =
      MetricsOverNodes({{1, {{"num-examples", 1.0}, {"acc", 0.25}, {"nan", kNan}}},
                        {2, {{"num-examples", 3.0}, {"acc", 0.75}, {"only", int64_t{4}}}}},
                       "num-examples");
  EXPECT_EQ(metrics, (MetricRecord{{"acc", 0.625},
                                   {"only", 4.0},
                                   {"acc-mean", 0.5},
                                   {"acc-min", 0.25},
                                   {"acc-max", 0.75},
                                   {"acc-std", 0.25},
                                   {"only-mean", 4.0},
                                   {"only-min", 4.0},
                                   {"only-max", 4.0},
                                   {"only-std", 0.0}}));
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
