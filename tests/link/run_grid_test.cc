// The server application's view: replies, failures, waiting and traffic.
#include <chrono>
#include <thread>
#include <utility>

#include "tests/link/link_fixture.h"

namespace fedumm::link {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::IsOk;
using testing::IsOkAndHolds;
using ::testing::SizeIs;
using testing::StatusIs;

class RunGridTest : public LinkFixture {
 protected:
  void SetUp() override {
    ASSERT_THAT(node_.Join(), IsOk());
    ASSERT_THAT(other_.Join(), IsOk());
  }
  void ExpectError(const Metadata& instruction, ErrorCode code) {
    const std::vector<Message> replies = Replies({instruction.message_id});
    ASSERT_THAT(replies, SizeIs(1));
    ASSERT_TRUE(replies[0].has_error());
    EXPECT_EQ(replies[0].error->code, code);
    EXPECT_EQ(replies[0].metadata.reply_to_message_id, instruction.message_id);
    EXPECT_EQ(replies[0].metadata.src_node_id, instruction.dst_node_id);
    EXPECT_THAT(Replies({instruction.message_id}), IsEmpty()) << "said once";
    EXPECT_EQ(state_.objects.num_objects(), 0);
  }
};

TEST_F(RunGridTest, UnknownDestinationHasNoId) {
  ASSERT_OK_AND_ASSIGN(const auto ids,
                       grid_->PushMessages({Instruction(42), Instruction(node_.id)}));
  ASSERT_THAT(ids, SizeIs(2));
  EXPECT_THAT(ids[0], IsEmpty());
  EXPECT_THAT(ids[1], SizeIs(64));
}

TEST_F(RunGridTest, InstructionsThatDifferInOneRecordShareTheObjectsOfTheOthers) {
  Message one = Instruction(node_.id);
  Message other = Instruction(other_.id);
  other.content = one.content;
  other.content->Set("config", ConfigRecord{{"server-round", int64_t{1}}, {"node", 2.0}});
  ASSERT_OK_AND_ASSIGN(const auto ids, grid_->PushMessages({one, other}));
  // Two messages, two contents, two configurations; one record of arrays, one array, one chunk.
  EXPECT_EQ(state_.objects.num_objects(), 2 + 2 + 2 + 3);
  ASSERT_OK_AND_ASSIGN(const auto response, other_.Pull());
  ASSERT_EQ(response.message_object_trees_size(), 1);
  const flwr::proto::ObjectTree& tree = response.message_object_trees(0);
  EXPECT_EQ(tree.object_id(), ids[1]);
  ASSERT_EQ(tree.children_size(), 1);
  EXPECT_EQ(tree.children(0).children_size(), 2);
  ASSERT_OK_AND_ASSIGN(const auto all, wire::TreeIds(tree, {}));
  EXPECT_THAT(all, SizeIs(6));
  for (const std::string& id : all) EXPECT_NE(state_.objects.Find(id), nullptr);
  grid_->Withdraw({ids[0]});
  for (const std::string& id : all) EXPECT_NE(state_.objects.Find(id), nullptr);
  grid_->Withdraw({ids[1]});
  EXPECT_EQ(state_.objects.num_objects(), 0);
}

TEST_F(RunGridTest, InstructionsAreChecked) {
  Message message = Instruction(node_.id);
  message.content.reset();
  EXPECT_THAT(grid_->PushMessages({message}), StatusIs(absl::StatusCode::kInvalidArgument));
  message = Instruction(node_.id, /*ttl=*/0);
  EXPECT_THAT(grid_->PushMessages({message}), StatusIs(absl::StatusCode::kInvalidArgument));
  message = Instruction(node_.id);
  message.metadata.message_type.clear();
  EXPECT_THAT(grid_->PushMessages({message}), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(RunGridTest, ExpiredInstructionIsError3) {
  const Metadata instruction = Send(node_, /*ttl=*/5);
  now_ += absl::Seconds(4);
  EXPECT_THAT(Replies({instruction.message_id}), IsEmpty());
  now_ += absl::Seconds(1);
  ExpectError(instruction, ErrorCode::kMessageUnavailable);
}

TEST_F(RunGridTest, UnknownInstructionIsError3) {
  const std::vector<Message> replies = Replies({std::string(64, 'e')});
  ASSERT_THAT(replies, SizeIs(1));
  EXPECT_EQ(replies[0].error->code, ErrorCode::kMessageUnavailable);
}

TEST_F(RunGridTest, ExpiredReplyIsError4) {
  const Metadata instruction = Send(node_, /*ttl=*/5);
  ASSERT_THAT(node_.PushAll(node_.PackReply(instruction, Content(1))), IsOk());
  now_ += absl::Seconds(6);
  ExpectError(instruction, ErrorCode::kReplyMessageUnavailable);
}

TEST_F(RunGridTest, NothingIsLeftOfAReplyThatIsWithdrawnBeforeItIsPulled) {
  const Metadata instruction = Send(node_);
  ASSERT_THAT(node_.PushAll(node_.PackReply(instruction, Content(1))), IsOk());
  grid_->Withdraw({instruction.message_id});
  MutexLock lock(state_.mu);
  EXPECT_THAT(state_.mailbox.Answered(grid_->run_id()), IsEmpty());
  EXPECT_EQ(state_.objects.num_objects(), 0);
}

TEST_F(RunGridTest, F1_NodeWithoutHeartbeatIsError5) {
  const Metadata instruction = Send(node_);
  now_ += absl::Seconds(59);
  EXPECT_THAT(Replies({instruction.message_id}), IsEmpty());
  now_ += absl::Seconds(1);
  ExpectError(instruction, ErrorCode::kNodeUnavailable);
}

TEST_F(RunGridTest, NodeThatLeavesMayComeBackWithinItsLease) {
  const Metadata instruction = Send(node_);
  ASSERT_THAT(node_.Deactivate(), IsOk());
  EXPECT_THAT(Replies({instruction.message_id}), IsEmpty());
  now_ += absl::Seconds(50);
  ASSERT_THAT(node_.Activate(), IsOk());
  now_ += absl::Seconds(50);
  EXPECT_THAT(Replies({instruction.message_id}), IsEmpty());
  EXPECT_TRUE(node_.Offered());
  ASSERT_THAT(node_.Deactivate(), IsOk());
  now_ += absl::Seconds(10);
  ExpectError(instruction, ErrorCode::kNodeUnavailable);
}

TEST_F(RunGridTest, UnregisteredNodeIsError5AtOnce) {
  const Metadata instruction = Send(node_);
  ASSERT_THAT(node_.Unregister(), IsOk());
  ExpectError(instruction, ErrorCode::kNodeUnavailable);
}

TEST_F(RunGridTest, F25_ReplyOfANodeThatLeftIsKept) {
  const Metadata instruction = Send(node_);
  ASSERT_THAT(node_.PushAll(node_.PackReply(instruction, Content(1))), IsOk());
  ASSERT_THAT(node_.Deactivate(), IsOk());
  ASSERT_THAT(node_.Unregister(), IsOk());
  const std::vector<Message> replies = Replies({instruction.message_id});
  ASSERT_THAT(replies, SizeIs(1));
  EXPECT_FALSE(replies[0].has_error());
}

TEST_F(RunGridTest, MalformedReplyIsAnErrorOfThatNodeAlone) {
  const Metadata instruction = Send(node_);
  PackedReply reply = node_.PackReply(instruction, Content(1));
  // The root names a child that the tree leaves out: each object is sound, the whole is not.
  reply.request.mutable_message_object_trees(0)->clear_children();
  ASSERT_THAT(node_.PushAll(reply), IsOk());
  ExpectError(instruction, ErrorCode::kReplyMessageUnavailable);
}

TEST_F(RunGridTest, RunsDoNotSeeEachOther) {
  const std::unique_ptr<Grid> second_run = NewRun();
  const Metadata instruction = Send(node_);
  second_run->Withdraw({instruction.message_id});
  ASSERT_THAT(node_.PushAll(node_.PackReply(instruction, Content(1))), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::vector<Message> foreign,
                       second_run->PullMessages({instruction.message_id}, absl::InfinitePast()));
  ASSERT_THAT(foreign, SizeIs(1));
  EXPECT_TRUE(foreign[0].has_error());
  const std::vector<Message> own = Replies({instruction.message_id});
  ASSERT_THAT(own, SizeIs(1));
  EXPECT_FALSE(own[0].has_error());
}

TEST_F(RunGridTest, PullWakesWithTheReply) {
  const Metadata instruction = Send(node_);
  absl::StatusOr<std::vector<Message>> replies;
  std::thread application(
      [&] { replies = grid_->PullMessages({instruction.message_id}, absl::InfiniteFuture()); });
  EXPECT_THAT(node_.PushAll(node_.PackReply(instruction, Content(1))), IsOk());
  application.join();
  ASSERT_THAT(replies, IsOkAndHolds(SizeIs(1)));
  EXPECT_FALSE((*replies)[0].has_error());
}

TEST_F(RunGridTest, PullWakesWithTheNodesEnd) {
  const Metadata instruction = Send(node_);
  absl::StatusOr<std::vector<Message>> replies;
  std::thread application(
      [&] { replies = grid_->PullMessages({instruction.message_id}, absl::InfiniteFuture()); });
  EXPECT_THAT(node_.Unregister(), IsOk());
  application.join();
  ASSERT_THAT(replies, IsOkAndHolds(SizeIs(1)));
  EXPECT_TRUE((*replies)[0].has_error());
}

TEST_F(RunGridTest, PullOfNothingReturnsAtOnce) {
  EXPECT_THAT(grid_->PullMessages({}, absl::InfiniteFuture()), IsOkAndHolds(IsEmpty()));
}

TEST_F(RunGridTest, DeadlinesFollowTheTimerAndNotTheWallClock) {
  absl::Time now = now_;
  LinkState state({.timer = [&now] { return now += absl::Seconds(12); }});  // with each look
  uint64_t run_id;
  {
    MutexLock lock(state.mu);
    ASSERT_OK_AND_ASSIGN(run_id, state.runs.Create({}, now));
  }
  RunGrid grid(state, run_id);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_THAT(grid.WaitForNodes(1, absl::Now() + absl::Seconds(12)), IsOkAndHolds(IsEmpty()));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(6));
}

TEST_F(RunGridTest, DeadlineOfAPullFollowsTheTimer) {
  absl::Time now = now_;
  absl::Duration step;
  LinkState state({.timer = [&] { return now += step; }});
  Fleet fleet(state);
  TestNode node(fleet, now_);
  now_ = absl::Now();
  ASSERT_THAT(node.Join(), IsOk());
  uint64_t run_id;
  {
    MutexLock lock(state.mu);
    ASSERT_OK_AND_ASSIGN(run_id, state.runs.Create({}, now));
  }
  RunGrid grid(state, run_id);
  ASSERT_OK_AND_ASSIGN(const auto ids, grid.PushMessages({Instruction(node.id, 1e6)}));
  step = absl::Seconds(6);  // less than the node's lease, all together
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_THAT(grid.PullMessages(ids, absl::Now() + absl::Seconds(12)), IsOkAndHolds(IsEmpty()));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(6));
}

// The run is stopped while the instruction is being packed.
TEST_F(RunGridTest, NothingIsLeftOfAnInstructionWhoseRunEndsMeanwhile) {
  std::thread user;
  LinkState* server = nullptr;
  uint64_t run_id = 0;
  bool stop = false;
  LinkState state({.clock = [&] {
    if (std::exchange(stop, false)) {
      user = std::thread([server, run_id] {
        Answers answers;
        MutexLock lock(server->mu);
        server->FinishRun(run_id, kStopped, "", answers);
      });
    }
    return now_;
  }});
  server = &state;
  Fleet fleet(state);
  TestNode node(fleet, now_);
  ASSERT_THAT(node.Join(), IsOk());
  {
    MutexLock lock(state.mu);
    ASSERT_OK_AND_ASSIGN(run_id, state.runs.Create({}, now_));
  }
  RunGrid grid(state, run_id);
  Message message = Instruction(node.id);
  message.content->Set(
      "large", ArrayRecord{{"w", Array::FromFloats({1 << 20}, std::vector<float>(1 << 20))}});
  stop = true;
  const auto ids = grid.PushMessages({message});
  user.join();
  if (ids.ok()) grid.Withdraw(*ids);  // it was faster than the user
  EXPECT_EQ(state.objects.num_objects(), 0);
  EXPECT_FALSE(node.Offered());
}

TEST_F(RunGridTest, NodeThatAnnouncesAShorterIntervalIsLostEarlier) {
  const Metadata instruction = Send(node_);
  EXPECT_THAT(Replies({instruction.message_id}), IsEmpty());
  ASSERT_THAT(node_.Heartbeat(/*interval=*/10), IsOk());
  now_ += absl::Seconds(19);
  EXPECT_THAT(Replies({instruction.message_id}), IsEmpty());
  now_ += absl::Seconds(1);
  ExpectError(instruction, ErrorCode::kNodeUnavailable);
}

TEST_F(RunGridTest, HeartbeatPutsOffTheNodesEnd) {
  const Metadata instruction = Send(node_);
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(Replies({instruction.message_id}), IsEmpty());
    now_ += absl::Seconds(50);
    ASSERT_THAT(node_.Heartbeat(), IsOk());
  }
  now_ += absl::Seconds(59);
  EXPECT_THAT(Replies({instruction.message_id}), IsEmpty());
  ASSERT_THAT(node_.PushAll(node_.PackReply(instruction, Content(1))), IsOk());
  EXPECT_THAT(Replies({instruction.message_id}), SizeIs(1));
}

TEST_F(RunGridTest, StopCancelsEveryWait) {
  const Metadata instruction = Send(node_);
  absl::StatusOr<std::vector<Message>> replies;
  absl::StatusOr<std::vector<uint64_t>> nodes;
  std::thread application([&] {
    replies = grid_->PullMessages({instruction.message_id}, absl::InfiniteFuture());
    nodes = grid_->WaitForNodes(100, absl::InfiniteFuture());
  });
  fleet_.Stop();
  application.join();
  EXPECT_THAT(replies, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(nodes, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(grid_->PushMessages({Instruction(node_.id)}), StatusIs(absl::StatusCode::kCancelled));
}

TEST_F(RunGridTest, WaitForNodesWakesWithTheNode) {
  EXPECT_THAT(grid_->WaitForNodes(3, absl::InfinitePast()), IsOkAndHolds(SizeIs(2)));
  TestNode third(fleet_, now_);
  absl::StatusOr<std::vector<uint64_t>> nodes;
  std::thread application([&] { nodes = grid_->WaitForNodes(3, absl::InfiniteFuture()); });
  EXPECT_THAT(third.Join(), IsOk());
  application.join();
  EXPECT_THAT(nodes, IsOkAndHolds(SizeIs(3)));
}

TEST_F(RunGridTest, TimersRunOnTheirThreadUntilStop) {
  LinkState state({});
  Fleet fleet(state);
  absl::Time now = absl::Now();
  TestNode node(fleet, now);
  ASSERT_THAT(node.Join(), IsOk());
  std::thread timers([&] { fleet.RunTimers(); });
  Mutex mu;
  CondVar answered;
  bool done = false;
  node.PullLater(absl::Milliseconds(20), 1, [&](const auto& response) {
    EXPECT_THAT(response, IsOk());
    MutexLock lock(mu);
    done = true;
    answered.NotifyAll();
  });
  {
    MutexLock lock(mu);
    while (!done) answered.Wait(mu);
  }
  fleet.Stop();
  timers.join();
}

// Ten nodes on threads of their own answer five rounds while the application sends and receives.
TEST_F(RunGridTest, ManyNodesAtOnceLoseNothing) {
  constexpr int kNodes = 10;
  constexpr int kRounds = 5;
  LinkState state({});
  Fleet fleet(state);
  std::thread timers([&] { fleet.RunTimers(); });
  const absl::Time now = absl::Now();
  std::vector<std::unique_ptr<TestNode>> nodes;
  for (int i = 0; i < kNodes; ++i) {
    nodes.push_back(std::make_unique<TestNode>(fleet, now));
    ASSERT_THAT(nodes.back()->Join(), IsOk());
  }
  uint64_t run_id;
  {
    MutexLock lock(state.mu);
    ASSERT_OK_AND_ASSIGN(run_id, state.runs.Create({}, now));
  }
  auto grid = std::make_unique<RunGrid>(state, run_id);
  std::vector<std::thread> threads;
  for (const auto& node : nodes) {
    threads.emplace_back([&, node = node.get()] {
      for (int round = 0; round < kRounds; ++round) {
        Mutex mu;
        CondVar answered;
        absl::StatusOr<flwr::proto::PullMessagesResponse> pulled;
        bool done = false;
        node->PullLater(absl::Minutes(1), static_cast<uint64_t>(round), [&](auto response) {
          MutexLock lock(mu);
          pulled = std::move(response);
          done = true;
          answered.NotifyAll();
        });
        {
          MutexLock lock(mu);
          while (!done) answered.Wait(mu);
        }
        ASSERT_THAT(pulled, IsOk());
        ASSERT_EQ(pulled->messages_list_size(), 1);
        ASSERT_OK_AND_ASSIGN(const Metadata instruction,
                             wire::MetadataFromProto(pulled->messages_list(0).metadata(), {}));
        ASSERT_THAT(node->Confirm(instruction), IsOk());
        ASSERT_THAT(node->PushAll(node->PackReply(instruction, Content(round))), IsOk());
      }
    });
  }
  int replies = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<Message> messages;
    for (const auto& node : nodes) messages.push_back(Instruction(node->id));
    EXPECT_THAT(grid->SendAndReceive(std::move(messages), absl::Minutes(1),
                                     [&](const Message& reply) {
                                       EXPECT_FALSE(reply.has_error());
                                       ++replies;
                                       return true;
                                     }),
                IsOk());
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(replies, kNodes * kRounds);
  EXPECT_EQ(state.objects.num_objects(), 0);
  grid.reset();
  fleet.Stop();
  timers.join();
}

class SmallRecordsTest : public LinkFixture {
 protected:
  SmallRecordsTest() : LinkFixture(false, {.max_object_bytes = 5000}) {}
};

TEST_F(SmallRecordsTest, AnInstructionWithARecordThatIsTooLargeIsRefusedByName) {
  ASSERT_THAT(node_.Join(), IsOk());
  Message instruction = Instruction(node_.id);
  instruction.content->Set("blob", ConfigRecord{{"bytes", Bytes{std::string(6000, 'x')}}});
  EXPECT_THAT(grid_->PushMessages({instruction}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("record 'blob'")));
  EXPECT_EQ(state_.objects.num_objects(), 0);
}

}  // namespace
}  // namespace fedumm::link
