// Hosted apps: who gets a run, for how long, and what its process may send and receive.
#include "tests/link/hosted_fixture.h"

namespace fedumm::link {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::IsOk;
using testing::IsOkAndHolds;
using ::testing::SizeIs;
using testing::StatusIs;

class RuntimeTest : public HostedFixture {
 protected:
  void SetUp() override {
    ASSERT_THAT(node_.Join(), IsOk());
    ASSERT_THAT(other_.Join(), IsOk());
    grid_.reset();  // the fixture's own run
  }
  void Answer(TestNode& node, const Metadata& instruction) {
    ASSERT_THAT(node.PushAll(node.PackReply(instruction, Content(1))), IsOk());
  }
};

TEST_F(RuntimeTest, ARunGoesThroughFlowersStates) {
  ASSERT_OK_AND_ASSIGN(const uint64_t run_id, StartRun());
  EXPECT_EQ(StatusOf(run_id), "pending");
  const std::string token = Token();
  EXPECT_THAT(token, SizeIs(256));
  EXPECT_EQ(StatusOf(run_id), "starting");
  ASSERT_OK_AND_ASSIGN(const auto input, PullInput(token));
  EXPECT_EQ(StatusOf(run_id), "running");
  EXPECT_EQ(input.run().run_id(), run_id);
  EXPECT_EQ(input.context().node_id(), 1);
  EXPECT_TRUE(input.context().has_state());
  EXPECT_EQ(input.context().series_id(), input.run().series_id());
  EXPECT_EQ(input.task_id(), input.run().primary_task_id());
  EXPECT_EQ(input.fab().content(), fab_.content());
  EXPECT_THAT(PushOutput(token, "completed"), IsOk());
  EXPECT_EQ(StatusOf(run_id), "finished:completed");
  EXPECT_THAT(PullInput(token), StatusIs(absl::StatusCode::kUnauthenticated));
}

TEST_F(RuntimeTest, AcquireTaskIsHeldUntilARunIsPending) {
  std::optional<flwr::proto::AcquireTaskResponse> first;
  std::optional<flwr::proto::AcquireTaskResponse> second;
  Acquire(absl::Seconds(20), 1, first);
  Acquire(absl::Seconds(25), 2, second);
  EXPECT_FALSE(first.has_value());
  ASSERT_OK_AND_ASSIGN(const uint64_t run_id, StartRun());
  ASSERT_TRUE(first.has_value()) << "who asked first";
  EXPECT_EQ(first->task().run_id(), run_id);
  EXPECT_EQ(first->task().type(), "flwr-serverapp");
  EXPECT_EQ(first->task().fab_hash(), fab_.hash());
  EXPECT_FALSE(second.has_value());
  now_ += absl::Seconds(25);
  fleet_.Tick();
  ASSERT_TRUE(second.has_value());
  EXPECT_FALSE(second->has_task());
}

TEST_F(RuntimeTest, AnExecutorOfOtherTasksGetsNone) {
  ASSERT_THAT(StartRun(), IsOk());
  flwr::proto::AcquireTaskRequest request;
  request.add_supported_task_types("flwr-simulation");
  std::optional<flwr::proto::AcquireTaskResponse> task;
  runtime_.AcquireTask(request, absl::Seconds(25), 1, [&](auto response) { task = *response; });
  ASSERT_TRUE(task.has_value());
  EXPECT_FALSE(task->has_task());
}

TEST_F(RuntimeTest, ARunThatIsNotStartedInTimeIsPendingAgain) {
  ASSERT_OK_AND_ASSIGN(const uint64_t run_id, StartRun());
  const std::string token = Token();
  now_ += absl::Seconds(30);
  fleet_.Tick();
  EXPECT_EQ(StatusOf(run_id), "pending");
  EXPECT_THAT(PullInput(token), StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_THAT(PullInput(Token()), IsOk());
}

TEST_F(RuntimeTest, ATaskThatDidNotReachItsExecutorIsOfferedAgain) {
  std::optional<flwr::proto::AcquireTaskResponse> first;
  std::optional<flwr::proto::AcquireTaskResponse> second;
  Acquire(absl::Seconds(25), 1, first);
  ASSERT_OK_AND_ASSIGN(const uint64_t run_id, StartRun());
  Acquire(absl::Seconds(25), 2, second);
  ASSERT_TRUE(first.has_value());
  runtime_.CancelAcquire(1);
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->task().run_id(), run_id);
  EXPECT_THAT(PullInput(first->token()), StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_THAT(PullInput(second->token()), IsOk());
}

TEST_F(RuntimeTest, ARunWithoutHeartbeatHasFailed) {
  const auto [run_id, token] = RunningRun();
  now_ += absl::Seconds(59);
  fleet_.Tick();
  ASSERT_THAT(runtime_.SendTaskHeartbeat(token, {}), IsOk());
  now_ += absl::Seconds(59);
  fleet_.Tick();
  EXPECT_EQ(StatusOf(run_id), "running");
  now_ += absl::Seconds(1);
  fleet_.Tick();
  EXPECT_EQ(StatusOf(run_id), "finished:failed");
  EXPECT_THAT(runtime_.SendTaskHeartbeat(token, {}), StatusIs(absl::StatusCode::kUnauthenticated));
}

TEST_F(RuntimeTest, AStoppedRunTakesItsTokenAndMessagesAlong) {
  const auto [run_id, token] = RunningRun();
  const Metadata instruction = SendHosted(token, run_id, node_);
  Replies held;
  PullLater(token, {instruction.message_id}, absl::Seconds(25), 1, held);
  EXPECT_FALSE(held.has_value());
  ASSERT_THAT(StopRun(run_id), IsOk());
  EXPECT_TRUE(held.has_value());
  EXPECT_THAT(runtime_.SendTaskHeartbeat(token, {}), StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_EQ(state_.objects.num_objects(), 0);
  EXPECT_THAT(node_.Push(node_.PackReply(instruction, Content(1))),
              StatusIs(absl::StatusCode::kPermissionDenied));
}

TEST_F(RuntimeTest, WrongTokensAreRefused) {
  const auto [run_id, token] = RunningRun();
  for (const std::string& wrong : {std::string(), std::string(256, '0'), token + "0"}) {
    EXPECT_THAT(runtime_.GetNodes(wrong, {}), StatusIs(absl::StatusCode::kUnauthenticated));
  }
  ASSERT_OK_AND_ASSIGN(const auto nodes, runtime_.GetNodes(token, {}));
  EXPECT_THAT(nodes.nodes(), SizeIs(2));
}

TEST_F(RuntimeTest, AnInstructionIsOfferedOnceAllItsObjectsAreHere) {
  const auto [run_id, token] = RunningRun();
  const Packed packed = Pack(run_id, node_.id);
  ASSERT_OK_AND_ASSIGN(const auto response, runtime_.PushMessages(token, packed.request));
  EXPECT_THAT(response.message_ids(), ElementsAre(packed.id));
  EXPECT_THAT(response.objects_to_push(), SizeIs(packed.objects.size()));
  EXPECT_FALSE(response.session_id().empty());
  for (const wire::Object& object : packed.objects) {
    EXPECT_FALSE(node_.Offered());
    EXPECT_THAT(PushObject(token, run_id, object, response.session_id()), IsOkAndHolds(true));
  }
  ASSERT_OK_AND_ASSIGN(const auto pulled, node_.Pull());
  ASSERT_THAT(pulled.messages_list(), SizeIs(1));
  EXPECT_EQ(pulled.messages_list(0).SerializeAsString(),
            packed.request.messages_list(0).SerializeAsString());
  for (const wire::Object& object : packed.objects) {
    ASSERT_OK_AND_ASSIGN(const auto bytes, node_.PullObject(run_id, object.id));
    EXPECT_EQ(bytes.object_content(), *object.bytes);
  }
}

TEST_F(RuntimeTest, AHeldPullOfANodeIsAnsweredByTheLastObject) {
  const auto [run_id, token] = RunningRun();
  std::optional<flwr::proto::PullMessagesResponse> pulled;
  node_.PullLater(absl::Seconds(10), 1, [&](auto response) { pulled = *response; });
  ASSERT_THAT(PushAll(token, run_id, Pack(run_id, node_.id)), IsOk());
  ASSERT_TRUE(pulled.has_value());
  EXPECT_THAT(pulled->messages_list(), SizeIs(1));
}

TEST_F(RuntimeTest, SharedObjectsAreUploadedOnce) {
  const auto [run_id, token] = RunningRun();
  ASSERT_THAT(PushAll(token, run_id, Pack(run_id, node_.id)), IsOk());
  const Packed second = Pack(run_id, other_.id);
  ASSERT_OK_AND_ASSIGN(const auto response, runtime_.PushMessages(token, second.request));
  EXPECT_THAT(response.objects_to_push(), ElementsAre(second.id));
}

TEST_F(RuntimeTest, AStalledUploadIsForgotten) {
  const auto [run_id, token] = RunningRun();
  const Packed packed = Pack(run_id, node_.id);
  ASSERT_OK_AND_ASSIGN(const auto response, runtime_.PushMessages(token, packed.request));
  for (int i = 0; i < 3; ++i) {  // the app lives on
    now_ += absl::Seconds(50);
    ASSERT_THAT(runtime_.SendTaskHeartbeat(token, {}), IsOk());
    ASSERT_THAT(node_.Heartbeat(), IsOk());
  }
  EXPECT_THAT(PushObject(token, run_id, packed.objects[0], response.session_id()),
              IsOkAndHolds(true));
  for (int i = 0; i < 4; ++i) {
    now_ += absl::Seconds(50);
    ASSERT_THAT(runtime_.SendTaskHeartbeat(token, {}), IsOk());
    ASSERT_THAT(node_.Heartbeat(), IsOk());
    fleet_.Tick();
  }
  EXPECT_EQ(state_.objects.num_objects(), 0);
  EXPECT_THAT(PushObject(token, run_id, packed.objects[1], response.session_id()),
              IsOkAndHolds(false));
  const auto replies = PullNow(token, {packed.id});
  ASSERT_THAT(replies.messages_list(), SizeIs(1));
  EXPECT_EQ(replies.messages_list(0).error().code(), 3);
}

TEST_F(RuntimeTest, ARepeatedAnnouncementGoesOn) {
  const auto [run_id, token] = RunningRun();
  const Packed packed = Pack(run_id, node_.id);
  ASSERT_THAT(runtime_.PushMessages(token, packed.request), IsOk());
  EXPECT_THAT(PushAll(token, run_id, packed), IsOkAndHolds(ElementsAre(packed.id)));
  EXPECT_TRUE(node_.Offered());
  EXPECT_FALSE(node_.Offered()) << "it is one message";
}

TEST_F(RuntimeTest, ObjectsThatWereNotAnnouncedOrAreWrongAreNotStored) {
  const auto [run_id, token] = RunningRun();
  const Packed packed = Pack(run_id, node_.id);
  EXPECT_THAT(PushObject(token, run_id, packed.objects[0], ""), IsOkAndHolds(false));
  ASSERT_OK_AND_ASSIGN(const auto response, runtime_.PushMessages(token, packed.request));
  wire::Object wrong = packed.objects[0];
  wrong.bytes = packed.objects[1].bytes;
  EXPECT_THAT(PushObject(token, run_id, wrong, response.session_id()), IsOkAndHolds(false));
  EXPECT_THAT(PushObject(token, run_id, packed.objects[0], "another session"), IsOkAndHolds(false));
  EXPECT_THAT(PushObject(token, run_id, packed.objects[0], ""), IsOkAndHolds(true));
  EXPECT_THAT(PushObject(token, run_id, packed.objects[1], "", node_.id),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(RuntimeTest, RefusedInstructionsHaveNoIdAndOthersGoOn) {
  const auto [run_id, token] = RunningRun();
  Packed packed = Pack(run_id, node_.id);
  const Packed unknown_node = Pack(run_id, 42);
  const Packed no_time = Pack(run_id, node_.id, /*ttl=*/0);
  for (const Packed* other : {&unknown_node, &no_time}) {
    *packed.request.add_messages_list() = other->request.messages_list(0);
    *packed.request.add_message_object_trees() = other->request.message_object_trees(0);
  }
  EXPECT_THAT(PushAll(token, run_id, packed), IsOkAndHolds(ElementsAre(packed.id, "", "")));
  EXPECT_TRUE(node_.Offered());
}

TEST_F(RuntimeTest, MessagesOfOtherRunsAreRefused) {
  const auto [run_id, token] = RunningRun();
  EXPECT_THAT(PushAll(token, run_id, Pack(run_id + 1, node_.id)),
              StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(runtime_.PushMessages(token, {}), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(RuntimeTest, PullIsHeldUntilAllRepliesAreComplete) {
  const auto [run_id, token] = RunningRun();
  const Metadata first = SendHosted(token, run_id, node_);
  const Metadata second = SendHosted(token, run_id, other_);
  Replies replies;
  PullLater(token, {first.message_id, second.message_id}, absl::Seconds(25), 1, replies);
  Answer(other_, second);
  EXPECT_FALSE(replies.has_value());
  Answer(node_, first);
  ASSERT_TRUE(replies.has_value());
  ASSERT_THAT(*replies, IsOk());
  EXPECT_THAT((*replies)->messages_list(), SizeIs(2));
  EXPECT_THAT((*replies)->message_object_trees(), SizeIs(2));
}

TEST_F(RuntimeTest, AReplyWaitsForOthersNoLongerThanThreeSeconds) {
  const auto [run_id, token] = RunningRun();
  const Metadata first = SendHosted(token, run_id, node_);
  const Metadata second = SendHosted(token, run_id, other_);
  Replies replies;
  PullLater(token, {first.message_id, second.message_id}, absl::Seconds(25), 1, replies);
  now_ += absl::Seconds(10);
  fleet_.Tick();
  EXPECT_FALSE(replies.has_value()) << "there is none";
  Answer(node_, first);
  now_ += absl::Seconds(2);
  fleet_.Tick();
  EXPECT_FALSE(replies.has_value());
  now_ += absl::Seconds(1);
  fleet_.Tick();
  ASSERT_TRUE(replies.has_value());
  ASSERT_THAT(*replies, IsOk());
  EXPECT_THAT((*replies)->messages_list(), SizeIs(1));
}

// A hosted app waits for the node, whose lease is made shorter meanwhile; then the node is lost.
class ShorterLeaseTest : public RuntimeTest, public ::testing::WithParamInterface<bool> {};

TEST_P(ShorterLeaseTest, AHostedAppHearsOfTheLossWhenTheShorterLeaseEnds) {
  const bool by_heartbeat = GetParam();
  ASSERT_THAT(node_.Activate(/*interval=*/1000), IsOk());
  const auto [run_id, token] = RunningRun();
  const Metadata instruction = SendHosted(token, run_id, node_);
  Replies replies;
  PullLater(token, {instruction.message_id}, absl::Hours(1), 1, replies);
  ASSERT_FALSE(replies.has_value());

  ASSERT_THAT(
      by_heartbeat ? node_.Heartbeat(/*interval=*/10) : node_.Activate(/*interval=*/10).status(),
      IsOk());
  {
    MutexLock lock(state_.mu);
    EXPECT_EQ(state_.NextAppsDue(), now_ + absl::Seconds(20)) << "when the timers look next";
  }
  now_ += absl::Seconds(20);
  fleet_.Tick();
  ASSERT_TRUE(replies.has_value());
  ASSERT_THAT(*replies, IsOk());
  ASSERT_THAT((*replies)->messages_list(), SizeIs(1));
  EXPECT_EQ((*replies)->messages_list(0).error().code(),
            static_cast<int64_t>(ErrorCode::kNodeUnavailable));
}

INSTANTIATE_TEST_SUITE_P(Calls, ShorterLeaseTest, ::testing::Values(true, false),
                         [](const auto& info) { return info.param ? "Heartbeat" : "Activate"; });

TEST_F(RuntimeTest, PullOfNoReplyIsHeldToItsEnd) {
  const auto [run_id, token] = RunningRun();
  const Metadata instruction = SendHosted(token, run_id, node_);
  Replies replies;
  PullLater(token, {instruction.message_id}, absl::Seconds(25), 1, replies);
  now_ += absl::Seconds(24);
  fleet_.Tick();
  EXPECT_FALSE(replies.has_value());
  now_ += absl::Seconds(1);
  fleet_.Tick();
  ASSERT_TRUE(replies.has_value());
  EXPECT_THAT((*replies)->messages_list(), IsEmpty());
}

TEST_F(RuntimeTest, PullGivesWhatIsThereWhenItsTimeIsOver) {
  const auto [run_id, token] = RunningRun();
  const Metadata first = SendHosted(token, run_id, node_);
  const Metadata second = SendHosted(token, run_id, other_);
  Answer(node_, first);
  Replies replies;
  PullLater(token, {first.message_id, second.message_id}, absl::Seconds(25), 1, replies);
  EXPECT_FALSE(replies.has_value());
  now_ += absl::Seconds(3);
  fleet_.Tick();
  ASSERT_TRUE(replies.has_value());
  ASSERT_THAT(*replies, IsOk());
  ASSERT_THAT((*replies)->messages_list(), SizeIs(1));
  EXPECT_EQ((*replies)->messages_list(0).metadata().reply_to_message_id(), first.message_id);
  EXPECT_THAT(PullNow(token, {}).messages_list(), IsEmpty());
}

TEST_F(RuntimeTest, AReplyIsTheNodesBytesAndIsGivenUntilItIsConfirmed) {
  const auto [run_id, token] = RunningRun();
  const Metadata instruction = SendHosted(token, run_id, node_);
  const PackedReply packed = node_.PackReply(instruction, Content(2));
  ASSERT_THAT(node_.PushAll(packed), IsOk());
  const auto first = PullNow(token, {instruction.message_id});
  ASSERT_THAT(first.messages_list(), SizeIs(1));
  EXPECT_EQ(first.messages_list(0).SerializeAsString(),
            packed.request.messages_list(0).SerializeAsString());
  EXPECT_EQ(first.message_object_trees(0).SerializeAsString(),
            packed.request.message_object_trees(0).SerializeAsString());
  const auto again = PullNow(token, {instruction.message_id});
  EXPECT_EQ(again.SerializeAsString(), first.SerializeAsString());
  for (const wire::Object& object : packed.objects) {
    ASSERT_OK_AND_ASSIGN(const auto bytes, PullObject(token, run_id, object.id));
    EXPECT_TRUE(bytes.object_available());
    EXPECT_EQ(bytes.object_content(), *object.bytes);
  }
  ASSERT_THAT(Confirm(token, run_id, first.messages_list(0).metadata().message_id()), IsOk());
  EXPECT_EQ(state_.objects.num_objects(), 0);
  EXPECT_THAT(PullNow(token, {instruction.message_id}).messages_list(), IsEmpty());
}

TEST_F(RuntimeTest, ARunSeesItsOwnObjectsOnly) {
  const auto [run_id, token] = RunningRun();
  const Metadata instruction = SendHosted(token, run_id, node_);
  const PackedReply packed = node_.PackReply(instruction, Content(2));
  ASSERT_THAT(node_.PushAll(packed), IsOk());
  const std::string object = packed.objects[0].id;
  ASSERT_OK_AND_ASSIGN(auto bytes, PullObject(token, run_id, object));
  EXPECT_FALSE(bytes.object_found()) << "not before the reply was given";
  PullNow(token, {instruction.message_id});
  const auto [other_run, other_token] = RunningRun();
  EXPECT_THAT(PullObject(other_token, run_id, object),
              StatusIs(absl::StatusCode::kPermissionDenied));
  ASSERT_OK_AND_ASSIGN(bytes, PullObject(other_token, other_run, object));
  EXPECT_FALSE(bytes.object_found());
  const auto replies = PullNow(other_token, {instruction.message_id});
  ASSERT_THAT(replies.messages_list(), SizeIs(1));
  EXPECT_EQ(replies.messages_list(0).error().code(), 3);
}

TEST_F(RuntimeTest, InstructionsThatCannotBeAnsweredGiveErrorsWithObjects) {
  const auto [run_id, token] = RunningRun();
  const Metadata late = SendHosted(token, run_id, node_, /*ttl=*/5);
  const Metadata gone = SendHosted(token, run_id, other_);
  Replies replies;
  PullLater(token, {late.message_id, gone.message_id}, absl::Seconds(25), 1, replies);
  ASSERT_THAT(other_.Unregister(), IsOk());
  EXPECT_FALSE(replies.has_value());
  now_ += absl::Seconds(5);
  fleet_.Tick();
  ASSERT_TRUE(replies.has_value());
  ASSERT_THAT(*replies, IsOk());
  ASSERT_THAT((*replies)->messages_list(), SizeIs(2));
  EXPECT_EQ((*replies)->messages_list(0).error().code(), 3);
  EXPECT_EQ((*replies)->messages_list(1).error().code(), 5);
  for (const flwr::proto::Message& message : (*replies)->messages_list()) {
    EXPECT_EQ(message.metadata().src_node_id(), 1);
    EXPECT_EQ(message.metadata().dst_node_id(), 1);
    ASSERT_OK_AND_ASSIGN(const auto bytes,
                         PullObject(token, run_id, message.metadata().message_id()));
    EXPECT_TRUE(bytes.object_available());
    ASSERT_THAT(Confirm(token, run_id, message.metadata().message_id()), IsOk());
  }
  EXPECT_EQ(state_.objects.num_objects(), 0);
}

TEST_F(RuntimeTest, AnErrorReplyOfANodeArrivesAsItWasSent) {
  const auto [run_id, token] = RunningRun();
  const Metadata instruction = SendHosted(token, run_id, node_);
  Message question;
  question.metadata = instruction;
  Message reply = MakeReply(question, RecordDict(), absl::ToUnixNanos(now_) * 1e-9);
  reply.content.reset();
  reply.error = Error{.code = ErrorCode::kClientAppRaisedException, .reason = "out of coffee"};
  ASSERT_THAT(node_.PushAll(node_.Pack(reply)), IsOk());
  const auto replies = PullNow(token, {instruction.message_id});
  ASSERT_THAT(replies.messages_list(), SizeIs(1));
  EXPECT_EQ(replies.messages_list(0).error().reason(), "out of coffee");
  EXPECT_FALSE(replies.messages_list(0).has_content());
}

// A ServerApp believes the objects, whatever the node announced.
TEST_F(RuntimeTest, AReplyWhoseObjectsNameAnotherMessageBecomesAnError) {
  const auto [run_id, token] = RunningRun();
  const Metadata instruction = SendHosted(token, run_id, node_);
  PackedReply packed = node_.PackReply(instruction, Content(2));
  packed.request.mutable_messages_list(0)->mutable_metadata()->set_group_id("forged");
  ASSERT_THAT(node_.PushAll(packed), IsOk());
  const auto replies = PullNow(token, {instruction.message_id});
  ASSERT_THAT(replies.messages_list(), SizeIs(1));
  EXPECT_EQ(replies.messages_list(0).error().code(), 4);
}

TEST_F(RuntimeTest, AStoppingServerAsksToTryAgain) {
  const auto [run_id, token] = RunningRun();
  const Metadata instruction = SendHosted(token, run_id, node_);
  Replies held;
  PullLater(token, {instruction.message_id}, absl::Seconds(25), 1, held);
  std::optional<flwr::proto::AcquireTaskResponse> task;
  Acquire(absl::Seconds(25), 2, task);
  fleet_.Stop();
  EXPECT_TRUE(held.has_value());
  EXPECT_TRUE(task.has_value());
  EXPECT_THAT(runtime_.GetNodes(token, {}), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(RuntimeTest, APullWhoseCallerHasDisconnectedIsNotAnswered) {
  const auto [run_id, token] = RunningRun();
  const Metadata instruction = SendHosted(token, run_id, node_);
  Replies held;
  PullLater(token, {instruction.message_id}, absl::Seconds(25), 1, held);
  runtime_.CancelPull(1);
  Answer(node_, instruction);
  EXPECT_FALSE(held.has_value());
  EXPECT_THAT(PullNow(token, {instruction.message_id}).messages_list(), SizeIs(1));
}

}  // namespace
}  // namespace fedumm::link
