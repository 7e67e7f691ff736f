#include "fedumm/simulation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <latch>

#include "absl/time/clock.h"
#include "base/random.h"
#include "fedumm/strategies.h"
#include "tests/testing/status_matchers.h"

namespace fedumm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::IsOk;
using ::testing::SizeIs;
using testing::StatusIs;

// Hands out the replies of another grid all at once, in a shuffled order.
class ShufflingGrid final : public Grid {
 public:
  ShufflingGrid(std::unique_ptr<Grid> grid, uint64_t seed)
      : grid_(std::move(grid)), random_(seed) {}

  uint64_t run_id() const override { return grid_->run_id(); }
  std::vector<uint64_t> NodeIds() override { return grid_->NodeIds(); }
  absl::StatusOr<std::vector<std::string>> PushMessages(std::vector<Message> messages) override {
    random_.Shuffle(messages);
    return grid_->PushMessages(std::move(messages));
  }
  absl::StatusOr<std::vector<Message>> PullMessages(const std::vector<std::string>& message_ids,
                                                    absl::Time deadline) override {
    std::vector<Message> all;
    while (all.size() < message_ids.size()) {
      auto some = grid_->PullMessages(message_ids, deadline);
      if (!some.ok() || some->empty()) return some;
      all.insert(all.end(), some->begin(), some->end());
    }
    random_.Shuffle(all);
    return all;
  }
  void Withdraw(const std::vector<std::string>& ids) override { grid_->Withdraw(ids); }
  Traffic NodeTraffic(uint64_t node_id) override { return grid_->NodeTraffic(node_id); }

 private:
  std::unique_ptr<Grid> grid_;
  Random random_;
};

// "Trains" with noise from the node's own seed, keeps a counter in its state, and fails now and
// then.
ClientApp NoisyApp() {
  ClientApp app;
  app.OnTrain([](const Message& message, Context& context) -> absl::StatusOr<RecordDict> {
    const double partition = NumberOr(context.node_config, "partition-id", -1);
    const double round = NumberOr(*message.content->FindConfig("config"), "server-round", -1);
    if (std::fmod(partition + round, 5) == 0) return absl::InternalError("a bad day");
    const ConfigRecord* state = context.state.FindConfig("state");
    const double calls = state == nullptr ? 0 : NumberOr(*state, "calls", 0);
    context.state.Set("state", ConfigRecord{{"calls", calls + 1}});
    Random random(42, {static_cast<uint64_t>(partition), static_cast<uint64_t>(calls)});
    ArrayRecord arrays;
    for (const auto& [key, array] : *message.content->FindArrays("arrays")) {
      std::vector<float> values;
      for (const double value : array.ToDoubles()) {
        values.push_back(static_cast<float>(value + random.Normal()));
      }
      arrays.Set(key, Array::FromFloats({array.num_elements()}, values));
    }
    return RecordDict{{"arrays", arrays},
                      {"metrics", MetricRecord{{"num-examples", 1 + partition * 17},
                                               {"loss", random.Uniform()},
                                               {"calls", calls}}}};
  });
  app.OnEvaluate([](const Message& message, Context& context) -> absl::StatusOr<RecordDict> {
    const double w = message.content->FindArrays("arrays")->Find("w")->ToDoubles()[0];
    return RecordDict{
        {"metrics", MetricRecord{{"num-examples", static_cast<int64_t>(context.node_id)},
                                 {"acc", w / static_cast<double>(context.node_id)}}}};
  });
  return app;
}

Result FourRounds(Grid& grid) {
  const std::vector<float> zeros(700);
  FedAvg strategy({.fraction_train = 0.75, .min_train_nodes = 3});
  absl::StatusOr<Result> result =
      strategy.Start(grid,
                     ArrayRecord{{"w", Array::FromFloats({700}, zeros)},
                                 {"v", Array::FromFloats({1}, {zeros.data(), 1})}},
                     {.num_rounds = 4, .seed = 3});
  EXPECT_THAT(result, IsOk());
  return *std::move(result);
}

TEST(SimulationTest, ThreadsAndTheOrderOfRepliesChangeNoBit) {
  const ClientApp app = NoisyApp();
  ASSERT_OK_AND_ASSIGN(auto one, NewSimulation(app, {.num_nodes = 12, .num_threads = 1}));
  ASSERT_OK_AND_ASSIGN(auto four, NewSimulation(app, {.num_nodes = 12, .num_threads = 4}));
  ASSERT_OK_AND_ASSIGN(auto inner, NewSimulation(app, {.num_nodes = 12, .num_threads = 4}));
  ShufflingGrid shuffled(std::move(inner), 5);
  const Result want = FourRounds(*one);
  EXPECT_TRUE(want.rounds[4].updated);
  EXPECT_LT(want.rounds[1].nodes.size(), 12);
  for (const Result& got : {FourRounds(*four), FourRounds(shuffled)}) {
    EXPECT_EQ(got.arrays, want.arrays);
    for (int i = 1; i <= 4; ++i) {
      EXPECT_EQ(got.rounds[i].train_metrics, want.rounds[i].train_metrics);
      EXPECT_EQ(got.rounds[i].evaluate_metrics, want.rounds[i].evaluate_metrics);
      ASSERT_EQ(got.rounds[i].nodes.size(), want.rounds[i].nodes.size());
      for (size_t j = 0; j < got.rounds[i].nodes.size(); ++j) {
        EXPECT_EQ(got.rounds[i].nodes[j].node_id, want.rounds[i].nodes[j].node_id);
        EXPECT_EQ(got.rounds[i].nodes[j].reason, want.rounds[i].nodes[j].reason);
        EXPECT_EQ(got.rounds[i].nodes[j].metrics, want.rounds[i].nodes[j].metrics);
      }
    }
  }
}

Message Instruction(uint64_t node_id, std::string_view type = message_type::kQuery) {
  Message message;
  message.metadata.dst_node_id = node_id;
  message.metadata.message_type = std::string(type);
  message.content = RecordDict();
  return message;
}

TEST(SimulationTest, ANodeSeesAFullInstructionAndItsOwnContext) {
  ClientApp app;
  app.OnQuery([](const Message& message, Context& context) -> absl::StatusOr<RecordDict> {
    EXPECT_EQ(message.metadata.src_node_id, kSuperLinkNodeId);
    EXPECT_EQ(message.metadata.dst_node_id, context.node_id);
    EXPECT_EQ(message.metadata.run_id, context.run_id);
    EXPECT_NE(message.metadata.message_id, "");
    EXPECT_EQ(context.node_config,
              (ConfigRecord{{"partition-id", int64_t{1}}, {"num-partitions", int64_t{3}}}));
    EXPECT_EQ(TextOr(context.run_config, "dataset", ""), "vqa");
    return RecordDict{{"ok", MetricRecord{{"ok", 1.0}}}};
  });
  ASSERT_OK_AND_ASSIGN(auto grid,
                       NewSimulation(app, {.num_nodes = 3, .run_config = {{"dataset", "vqa"}}}));
  EXPECT_THAT(grid->NodeIds(), ElementsAre(2, 3, 4));
  int replies = 0;
  ASSERT_THAT(grid->SendAndReceive({Instruction(3)}, absl::Minutes(1),
                                   [&](Message reply) {
                                     EXPECT_FALSE(reply.has_error());
                                     EXPECT_EQ(reply.metadata.src_node_id, 3);
                                     ++replies;
                                     return true;
                                   }),
              IsOk());
  EXPECT_EQ(replies, 1);
}

TEST(SimulationTest, AnUnknownNodeIsRefusedAndAMissingHandlerIsAnErrorReply) {
  const ClientApp app;
  ASSERT_OK_AND_ASSIGN(auto grid, NewSimulation(app, {.num_nodes = 2}));
  ASSERT_OK_AND_ASSIGN(const std::vector<std::string> ids,
                       grid->PushMessages({Instruction(1), Instruction(4), Instruction(2)}));
  ASSERT_THAT(ids, SizeIs(3));
  EXPECT_EQ(ids[0], "");
  EXPECT_EQ(ids[1], "");
  ASSERT_OK_AND_ASSIGN(const std::vector<Message> replies,
                       grid->PullMessages({ids[2]}, absl::InfiniteFuture()));
  ASSERT_THAT(replies, SizeIs(1));
  ASSERT_TRUE(replies[0].has_error());
  EXPECT_THAT(replies[0].error->reason, HasSubstr("query"));
  ASSERT_OK_AND_ASSIGN(const std::vector<Message> again,
                       grid->PullMessages({ids[2]}, absl::InfinitePast()));
  EXPECT_THAT(again, IsEmpty());
}

TEST(SimulationTest, OneNodeHandlesOneMessageAtATimeAndInOrder) {
  std::atomic<int> running = 0;
  std::vector<double> seen;  // not synchronised: the node is
  ClientApp app;
  app.OnQuery([&](const Message& message, Context&) -> absl::StatusOr<RecordDict> {
    EXPECT_EQ(++running, 1);
    seen.push_back(NumberOr(*message.content->FindConfig("config"), "i", -1));
    --running;
    return RecordDict();
  });
  ASSERT_OK_AND_ASSIGN(auto grid, NewSimulation(app, {.num_nodes = 1, .num_threads = 4}));
  std::vector<Message> messages(100, Instruction(2));
  std::vector<double> want;
  for (int i = 0; i < 100; ++i) {
    messages[i].content = RecordDict{{"config", ConfigRecord{{"i", int64_t{i}}}}};
    want.push_back(i);
  }
  ASSERT_THAT(grid->SendAndReceive(messages, absl::Minutes(1), [](Message) { return true; }),
              IsOk());
  EXPECT_EQ(seen, want);
}

TEST(SimulationTest, NodesRunSideBySideOnSeveralThreads) {
  std::latch all_there(4);  // opens only if four handlers run at once
  ClientApp app;
  app.OnQuery([&](const Message&, Context&) -> absl::StatusOr<RecordDict> {
    all_there.arrive_and_wait();
    return RecordDict();
  });
  ASSERT_OK_AND_ASSIGN(auto grid, NewSimulation(app, {.num_nodes = 4, .num_threads = 4}));
  int replies = 0;
  ASSERT_THAT(grid->SendAndReceive({Instruction(2), Instruction(3), Instruction(4), Instruction(5)},
                                   absl::Minutes(1),
                                   [&](Message) {
                                     ++replies;
                                     return true;
                                   }),
              IsOk());
  EXPECT_EQ(replies, 4);
}

TEST(SimulationTest, WithdrawnInstructionsAreNotRunAndGiveNoReply) {
  std::latch started(1);
  std::latch release(1);
  std::atomic<int> calls = 0;
  ClientApp app;
  app.OnQuery([&](const Message&, Context&) -> absl::StatusOr<RecordDict> {
    if (calls++ == 0) {
      started.count_down();
      release.wait();
    }
    return RecordDict();
  });
  ASSERT_OK_AND_ASSIGN(auto grid, NewSimulation(app, {.num_nodes = 2, .num_threads = 1}));
  ASSERT_OK_AND_ASSIGN(const std::vector<std::string> ids,
                       grid->PushMessages({Instruction(2), Instruction(3)}));
  started.wait();
  grid->Withdraw(ids);
  release.count_down();
  ASSERT_OK_AND_ASSIGN(const std::vector<std::string> last, grid->PushMessages({Instruction(3)}));
  ASSERT_OK_AND_ASSIGN(const std::vector<Message> replies,
                       grid->PullMessages({ids[0], ids[1], last[0]}, absl::InfiniteFuture()));
  ASSERT_THAT(replies, SizeIs(1));
  EXPECT_EQ(replies[0].metadata.reply_to_message_id, last[0]);
  EXPECT_EQ(calls, 2);
}

TEST(SimulationTest, ImpossibleSizesAreRefused) {
  const ClientApp app;
  EXPECT_THAT(NewSimulation(app, {.num_nodes = 0}), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(NewSimulation(app, {.num_threads = 0}), StatusIs(absl::StatusCode::kInvalidArgument));
}

// Replies would otherwise pile up, each with an adapter in it, while a slow aggregation takes them.
TEST(SimulationTest, RepliesThatNobodyWaitsForAreNotMadeAhead) {
  constexpr int kNodes = 40;
  std::atomic<int> taken = 0;
  std::atomic<int> made = 0;
  std::atomic<int> most_ahead = 0;
  ClientApp app;
  app.OnTrain([&](const Message&, Context&) -> absl::StatusOr<RecordDict> {
    const int ahead = ++made - taken;
    int most = most_ahead;
    while (ahead > most && !most_ahead.compare_exchange_weak(most, ahead)) {
    }
    return RecordDict();
  });
  auto grid = NewSimulation(app, {.num_nodes = kNodes, .num_threads = 2});
  ASSERT_THAT(grid, IsOk());
  std::vector<Message> messages(kNodes);
  for (int i = 0; i < kNodes; ++i) {
    messages[i].metadata.dst_node_id = 2 + i;
    messages[i].metadata.message_type = message_type::kTrain;
    messages[i].content = RecordDict();
  }
  const auto ids = (*grid)->PushMessages(std::move(messages));
  ASSERT_THAT(ids, IsOk());
  volatile double work = 1;
  while (taken < kNodes) {
    const auto replies = (*grid)->PullMessages(*ids, absl::Now() + absl::Seconds(60));
    ASSERT_THAT(replies, IsOk());
    ASSERT_FALSE(replies->empty());
    for (int i = 0; i < 200'000; ++i) work = std::sqrt(work + 1);  // the aggregation
    taken += static_cast<int>(replies->size());
  }
  EXPECT_LE(most_ahead, 4);  // two taken and not yet counted, two ready or under way
}

}  // namespace
}  // namespace fedumm
