// What a server takes for a reply, and how its objects come in.
#include <cmath>
#include <functional>

#include "tests/link/link_fixture.h"

namespace fedumm::link {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::IsOk;
using ::testing::SizeIs;
using testing::StatusIs;
using ::testing::UnorderedElementsAreArray;

class ReplyTest : public LinkFixture {
 protected:
  void SetUp() override {
    ASSERT_THAT(node_.Join(), IsOk());
    ASSERT_THAT(other_.Join(), IsOk());
    instruction_ = Send(node_);
    ASSERT_THAT(node_.Confirm(instruction_), IsOk());
  }
  // Refused: nothing is asked for, and the application gets an error at most.
  void ExpectRefused(TestNode& node, const PackedReply& reply) {
    ASSERT_OK_AND_ASSIGN(const auto response, node.Push(reply));
    EXPECT_THAT(response.objects_to_push(), IsEmpty());
    EXPECT_THAT(response.session_id(), IsEmpty());
    for (const Message& reply : Replies({instruction_.message_id})) {
      EXPECT_TRUE(reply.has_error()) << "a refusal is all that the application gets";
    }
  }
  // A reply with something wrong in its metadata.
  PackedReply Tampered(const std::function<void(Metadata&)>& tamper) {
    Message message;
    message.metadata = instruction_;
    Message reply = MakeReply(message, Content(7), absl::ToUnixNanos(now_) * 1e-9);
    tamper(reply.metadata);
    return node_.Pack(std::move(reply));
  }
  static RecordDict Big(int64_t value) {
    RecordDict content;
    content.Set("config", ConfigRecord{{"value", value}});
    return content;
  }

  Metadata instruction_;
};

TEST_F(ReplyTest, ReplyIsCompleteWithItsLastObject) {
  const PackedReply reply = node_.PackReply(instruction_, Big(7));
  ASSERT_OK_AND_ASSIGN(const auto response, node_.Push(reply));
  EXPECT_EQ(response.reconnect().reconnect(), 5);
  EXPECT_EQ(response.results().at(reply.request.messages_list(0).metadata().message_id()), 0);
  EXPECT_THAT(response.session_id(), SizeIs(32));
  EXPECT_THAT(response.objects_to_push(), SizeIs(reply.objects.size()));
  for (const wire::Object& object : reply.objects) {
    EXPECT_THAT(Replies({instruction_.message_id}), IsEmpty());
    ASSERT_OK_AND_ASSIGN(const auto pushed,
                         node_.PushObject(instruction_.run_id, object, response.session_id()));
    EXPECT_TRUE(pushed.stored());
  }
  const std::vector<Message> replies = Replies({instruction_.message_id});
  ASSERT_THAT(replies, SizeIs(1));
  EXPECT_EQ(replies[0].metadata.src_node_id, node_.id);
  EXPECT_EQ(replies[0].metadata.reply_to_message_id, instruction_.message_id);
  EXPECT_EQ(replies[0].content, Big(7));
  EXPECT_THAT(Replies({instruction_.message_id}), IsEmpty()) << "a reply is returned once";
  EXPECT_EQ(state_.objects.num_objects(), 0);
}

TEST_F(ReplyTest, ObjectsThatAreHereAreNotAskedFor) {
  const PackedReply reply = node_.PackReply(instruction_, Content(1));  // the instruction's content
  ASSERT_OK_AND_ASSIGN(const auto response, node_.Push(reply));
  EXPECT_THAT(response.objects_to_push(), ElementsAre(reply.objects.back().id));
  ASSERT_THAT(node_.PushObject(instruction_.run_id, reply.objects.back()), IsOk());
  ASSERT_THAT(Replies({instruction_.message_id}), SizeIs(1));
}

TEST_F(ReplyTest, ErrorReplyIsOneObject) {
  Message message;
  message.metadata = instruction_;
  const PackedReply reply = node_.Pack(
      MakeReply(message, absl::InternalError("out of memory"), absl::ToUnixNanos(now_) * 1e-9));
  ASSERT_THAT(node_.PushAll(reply), IsOk());
  const std::vector<Message> replies = Replies({instruction_.message_id});
  ASSERT_THAT(replies, SizeIs(1));
  ASSERT_TRUE(replies[0].has_error());
  EXPECT_EQ(replies[0].error->code, ErrorCode::kClientAppRaisedException);
}

TEST_F(ReplyTest, F5_SameReplyAgainIsAccepted) {
  const PackedReply reply = node_.PackReply(instruction_, Big(7));
  ASSERT_OK_AND_ASSIGN(const auto first, node_.Push(reply));
  ASSERT_THAT(node_.PushObject(instruction_.run_id, reply.objects[0]), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto second, node_.Push(reply));
  EXPECT_THAT(second.objects_to_push(), SizeIs(first.objects_to_push_size() - 1))
      << "F1: only what is missing";
  EXPECT_EQ(second.session_id(), first.session_id());
  ASSERT_THAT(node_.PushAll(reply), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto complete, node_.Push(reply));
  EXPECT_THAT(complete.objects_to_push(), IsEmpty());
  ASSERT_THAT(Replies({instruction_.message_id}), SizeIs(1));
  ASSERT_OK_AND_ASSIGN(const auto taken, node_.Push(reply));
  EXPECT_THAT(taken.objects_to_push(), IsEmpty());
  EXPECT_EQ(taken.results().begin()->second, 0);
  EXPECT_THAT(Replies({instruction_.message_id}), IsEmpty()) << "counted once";
}

TEST_F(ReplyTest, F5_SecondDifferentReplyIsRefused) {
  const PackedReply first = node_.PackReply(instruction_, Big(7));
  const PackedReply second = node_.PackReply(instruction_, Big(8));
  ASSERT_OK_AND_ASSIGN(auto response, node_.Push(first));
  ExpectRefused(node_, second);
  ASSERT_THAT(node_.PushAll(first), IsOk());
  ASSERT_OK_AND_ASSIGN(response, node_.Push(second));
  EXPECT_THAT(response.objects_to_push(), IsEmpty());
  EXPECT_EQ(response.results().begin()->second, 0);
  const std::vector<Message> replies = Replies({instruction_.message_id});
  ASSERT_THAT(replies, SizeIs(1));
  EXPECT_EQ(replies[0].content, Big(7));
}

TEST_F(ReplyTest, F1_NodeThatRestartsMayReplyAgain) {
  const PackedReply first = node_.PackReply(instruction_, Big(7));
  ASSERT_THAT(node_.Push(first), IsOk());
  ASSERT_THAT(node_.PushObject(instruction_.run_id, first.objects[0]), IsOk());
  ASSERT_THAT(node_.Activate(), IsOk());
  EXPECT_TRUE(node_.Offered());
  now_ += absl::Milliseconds(10);
  const PackedReply second = node_.PackReply(instruction_, Big(7));
  ASSERT_OK_AND_ASSIGN(const auto response, node_.Push(second));
  EXPECT_THAT(response.objects_to_push(), SizeIs(2)) << "the record was uploaded before";
  ASSERT_THAT(node_.PushAll(second), IsOk());
  EXPECT_THAT(Replies({instruction_.message_id}), SizeIs(1));
  EXPECT_EQ(state_.objects.num_objects(), 0);
}

TEST_F(ReplyTest, F1_StalledUploadIsReclaimedAndTheMessageOfferedAgain) {
  const PackedReply reply = node_.PackReply(instruction_, Big(7));
  ASSERT_OK_AND_ASSIGN(const auto response, node_.Push(reply));
  const int64_t before = state_.objects.num_objects();
  now_ += absl::Seconds(100);
  ASSERT_THAT(node_.PushObject(instruction_.run_id, reply.objects[0]), IsOk());
  now_ += absl::Seconds(100);
  fleet_.Tick();
  EXPECT_EQ(state_.objects.num_objects(), before) << "each object renews the session";
  now_ += absl::Seconds(80);
  fleet_.Tick();
  EXPECT_EQ(state_.objects.num_objects(), before - static_cast<int64_t>(reply.objects.size()));
  ASSERT_OK_AND_ASSIGN(const auto pushed, node_.PushObject(instruction_.run_id, reply.objects[1],
                                                           response.session_id()));
  EXPECT_FALSE(pushed.stored());
  EXPECT_TRUE(node_.Offered());
}

TEST_F(ReplyTest, F6_ReplyToAnotherNodesInstructionIsRefused) {
  ExpectRefused(other_, other_.Pack([&] {
    Message message;
    message.metadata = instruction_;
    return MakeReply(message, Content(7), absl::ToUnixNanos(now_) * 1e-9);
  }()));
  Metadata pretended = instruction_;
  pretended.dst_node_id = other_.id;
  ExpectRefused(other_, other_.PackReply(pretended, Big(7)));
  EXPECT_THAT(node_.PushAll(node_.PackReply(instruction_, Big(7))), IsOk());
}

TEST_F(ReplyTest, F6_ReplyInAnothersNameIsRefused) {
  ExpectRefused(node_, Tampered([&](Metadata& m) { m.src_node_id = other_.id; }));
  ExpectRefused(node_, Tampered([&](Metadata& m) { m.dst_node_id = other_.id; }));
  ExpectRefused(node_, Tampered([](Metadata& m) { m.reply_to_message_id = std::string(64, 'a'); }));
  const std::unique_ptr<Grid> second_run = NewRun();
  ExpectRefused(node_, Tampered([&](Metadata& m) { m.run_id = second_run->run_id(); }));
  ExpectRefused(node_, Tampered([](Metadata& m) { m.message_type.clear(); }));
}

TEST_F(ReplyTest, F27_TimesThatCannotBeAreRefused) {
  ExpectRefused(node_, Tampered([](Metadata& m) { m.ttl += 0.2; }));
  ExpectRefused(node_, Tampered([](Metadata& m) { m.ttl = 0; }));
  ExpectRefused(node_, Tampered([](Metadata& m) { m.ttl = -1; }));
  ExpectRefused(node_, Tampered([](Metadata& m) { m.ttl = std::nan(""); }));
  ExpectRefused(node_, Tampered([](Metadata& m) { m.created_at = 1e9; }));
  ExpectRefused(node_, Tampered([](Metadata& m) { m.created_at += 100; }));
  ExpectRefused(node_, Tampered([](Metadata& m) { m.created_at = HUGE_VAL; }));
  ExpectRefused(node_, Tampered([](Metadata& m) { m.created_at -= 7200; }));
  EXPECT_THAT(node_.PushAll(Tampered([](Metadata& m) { m.ttl += 0.05; })), IsOk());
}

TEST_F(ReplyTest, MessageThatIsNotWellFormedIsRefused) {
  PackedReply reply = node_.PackReply(instruction_, Big(7));
  flwr::proto::Message& message = *reply.request.mutable_messages_list(0);
  message.mutable_error()->set_code(2);
  ExpectRefused(node_, reply);
  message.clear_error();
  message.clear_content();
  ExpectRefused(node_, reply);
  message.mutable_content()->add_items()->set_key("inline");
  ExpectRefused(node_, reply);
  message.mutable_content()->clear_items();
  message.mutable_metadata()->set_message_id(std::string(64, 'b'));
  ExpectRefused(node_, reply);
}

TEST_F(ReplyTest, PushOfOtherThanOneMessageIsInvalid) {
  PackedReply reply = node_.PackReply(instruction_, Big(7));
  reply.request.clear_message_object_trees();
  EXPECT_THAT(node_.Push(reply), StatusIs(absl::StatusCode::kInvalidArgument));
  reply.request.clear_messages_list();
  EXPECT_THAT(node_.Push(reply), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(ReplyTest, F18_HostileTreeIsRefused) {
  PackedReply reply = node_.PackReply(instruction_, Big(7));
  flwr::proto::ObjectTree* tree = reply.request.mutable_message_object_trees(0);
  for (int depth = 0; depth < 50; ++depth) {
    tree = tree->add_children();
    tree->set_object_id(std::string(64, static_cast<char>('0' + depth % 10)));
  }
  ExpectRefused(node_, reply);
  reply = node_.PackReply(instruction_, Big(7));
  reply.request.mutable_message_object_trees(0)->add_children()->set_object_id("../../etc");
  ExpectRefused(node_, reply);
}

TEST_F(ReplyTest, F19_ObjectsThatWereNotAnnouncedOrAreOfAnotherNodeAreNotStored) {
  const PackedReply reply = node_.PackReply(instruction_, Big(7));
  ASSERT_OK_AND_ASSIGN(const auto response, node_.Push(reply));
  const int64_t bytes = state_.objects.num_bytes();
  const auto stored = [&](TestNode& node, const wire::Object& object, const std::string& session) {
    return node.PushObject(instruction_.run_id, object, session)->stored();
  };
  const PackedReply unknown = node_.PackReply(instruction_, Big(9));
  EXPECT_FALSE(stored(node_, unknown.objects[0], ""));
  EXPECT_FALSE(stored(node_, reply.objects[0], "another session"));
  EXPECT_FALSE(stored(other_, reply.objects[0], response.session_id()));
  EXPECT_EQ(state_.objects.num_bytes(), bytes);
  EXPECT_TRUE(stored(node_, reply.objects[0], response.session_id()));
  EXPECT_TRUE(stored(node_, reply.objects[0], "")) << "again, and without a session";
}

TEST_F(ReplyTest, F19_AReplyWhoseObjectHasAnotherHashIsAnErrorAtOnce) {
  const PackedReply reply = node_.PackReply(instruction_, Big(7));
  ASSERT_OK_AND_ASSIGN(const auto response, node_.Push(reply));
  wire::Object wrong = reply.objects[0];
  wrong.bytes = reply.objects[1].bytes;
  EXPECT_FALSE(node_.PushObject(instruction_.run_id, wrong, response.session_id())->stored());
  const std::vector<Message> replies = Replies({instruction_.message_id});
  ASSERT_THAT(replies, SizeIs(1));
  ASSERT_TRUE(replies[0].has_error());
  EXPECT_EQ(replies[0].error->code, ErrorCode::kReplyMessageUnavailable);
  EXPECT_THAT(replies[0].error->reason, HasSubstr("hash"));
}

TEST_F(ReplyTest, ARefusedAnnouncementAnswersTheInstructionWithTheReason) {
  ASSERT_OK_AND_ASSIGN(const auto response,
                       node_.Push(Tampered([](Metadata& m) { m.created_at += 100; })));
  EXPECT_EQ(response.results().begin()->second, 1) << "refused";
  const std::vector<Message> replies = Replies({instruction_.message_id});
  ASSERT_THAT(replies, SizeIs(1));
  ASSERT_TRUE(replies[0].has_error());
  EXPECT_THAT(replies[0].error->reason, HasSubstr("created_at"));
}

TEST_F(ReplyTest, ARefusedAnnouncementOfAnotherNodeLeavesTheInstructionOpen) {
  PackedReply bad = Tampered([](Metadata& m) { m.created_at += 100; });
  bad.request.mutable_node()->set_node_id(other_.id);
  EXPECT_THAT(other_.Push(bad), IsOk());
  EXPECT_THAT(Replies({instruction_.message_id}), IsEmpty());
  EXPECT_THAT(node_.PushAll(node_.PackReply(instruction_, Big(7))), IsOk());
}

TEST_F(ReplyTest, AnErrorTakesThePlaceOfAReplyThatTheNodeGivesUp) {
  const PackedReply reply = node_.PackReply(instruction_, Big(7));
  ASSERT_OK_AND_ASSIGN(const auto response, node_.Push(reply));
  Message message;
  message.metadata = instruction_;
  ASSERT_THAT(node_.PushAll(node_.Pack(MakeReply(message, absl::InvalidArgumentError("too large"),
                                                 absl::ToUnixNanos(now_) * 1e-9))),
              IsOk());
  EXPECT_FALSE(
      node_.PushObject(instruction_.run_id, reply.objects[0], response.session_id())->stored());
  const std::vector<Message> replies = Replies({instruction_.message_id});
  ASSERT_THAT(replies, SizeIs(1));
  ASSERT_TRUE(replies[0].has_error());
  EXPECT_EQ(replies[0].error->reason, "too large");
}

class SmallObjectsTest : public LinkFixture {
 protected:
  SmallObjectsTest() : LinkFixture(false, {.max_object_bytes = 5000}) {}
};

TEST_F(SmallObjectsTest, AReplyWithAnObjectThatIsTooLargeIsAnErrorThatNamesTheLimit) {
  ASSERT_THAT(node_.Join(), IsOk());
  const Metadata instruction = Send(node_);
  RecordDict content;
  content.Set("config", ConfigRecord{{"blob", Bytes{std::string(6000, 'x')}}});
  EXPECT_THAT(node_.PushAll(node_.PackReply(instruction, content)),
              StatusIs(absl::StatusCode::kDataLoss));
  const std::vector<Message> replies = Replies({instruction.message_id});
  ASSERT_THAT(replies, SizeIs(1));
  ASSERT_TRUE(replies[0].has_error());
  EXPECT_EQ(replies[0].error->code, ErrorCode::kReplyMessageUnavailable);
  EXPECT_THAT(replies[0].error->reason, HasSubstr("limit 5000"));
  EXPECT_EQ(state_.objects.num_objects(), 0) << "nothing of the reply is kept";
}

// Asked with the head of a call, before it is read.
TEST_F(SmallObjectsTest, OnlyANodeThatWasSentAMessageMayUploadALargeCall) {
  const int64_t usual = state_.options.limits.max_call_bytes;
  EXPECT_EQ(fleet_.MaxUploadBytes(node_.Sign(), 1), usual) << "a stranger";
  ASSERT_THAT(node_.Join(), IsOk());
  EXPECT_EQ(fleet_.MaxUploadBytes(node_.Sign(), 1), usual) << "not sent a message yet";
}

TEST_F(ReplyTest, ANodeThatWasSentAMessageMayUploadALargeObject) {
  const Limits& limits = state_.options.limits;
  const int64_t large = limits.max_object_bytes;
  EXPECT_GT(fleet_.MaxUploadBytes(node_.Sign(), large), large);
  Caller forged = node_.Sign();
  forged.signature = other_.Sign().signature;
  EXPECT_EQ(fleet_.MaxUploadBytes(forged, large), limits.max_call_bytes);
  const Caller used = node_.Sign();
  EXPECT_GT(fleet_.MaxUploadBytes(used, large), large) << "does not use the signature up";
  ASSERT_OK_AND_ASSIGN(const auto ignored, fleet_.GetRun(used, [&] {
    auto request = node_.Request<flwr::proto::GetRunRequest>();
    request.set_run_id(instruction_.run_id);
    return request;
  }()));
  EXPECT_EQ(fleet_.MaxUploadBytes(used, large), limits.max_call_bytes) << "used up";
}

TEST_F(ReplyTest, ALargeUploadHasTimeUntilItIsThere) {
  const PackedReply reply = node_.PackReply(instruction_, Big(7));
  ASSERT_OK_AND_ASSIGN(const auto response, node_.Push(reply));
  fleet_.MaxUploadBytes(node_.Sign(), int64_t{600} << 20);
  now_ += absl::Seconds(3000);  // at 200 KiB/s
  ASSERT_THAT(node_.Heartbeat(), IsOk());
  fleet_.Tick();
  EXPECT_FALSE(node_.Offered()) << "the reply is still being uploaded";
  for (const wire::Object& object : reply.objects) {
    EXPECT_TRUE(node_.PushObject(instruction_.run_id, object, response.session_id())->stored());
  }
}

TEST_F(ReplyTest, AnUploadThatIsLargerThanAnyObjectIsAnErrorThatNamesTheLimit) {
  ASSERT_THAT(node_.Push(node_.PackReply(instruction_, Big(7))), IsOk());
  fleet_.MaxUploadBytes(node_.Sign(), int64_t{1} << 32);
  const std::vector<Message> replies = Replies({instruction_.message_id});
  ASSERT_THAT(replies, SizeIs(1));
  EXPECT_THAT(replies[0].error->reason,
              HasSubstr(std::to_string(state_.options.limits.max_object_bytes)));
}

TEST_F(ReplyTest, MessageIsLimitedInBytes) {
  const PackedReply reply = node_.PackReply(instruction_, Big(7));
  LinkOptions options = Options();
  options.limits.max_message_bytes = 0;
  for (const wire::Object& object : reply.objects) {
    options.limits.max_message_bytes += static_cast<int64_t>(object.bytes->size());
  }
  for (const int64_t less : {1, 0}) {
    options.limits.max_message_bytes -= less;
    LinkState state(options);
    Fleet fleet(state);
    TestNode node(fleet, now_);
    ASSERT_THAT(node.Join(), IsOk());
    uint64_t run_id;
    {
      MutexLock lock(state.mu);
      ASSERT_OK_AND_ASSIGN(run_id, state.runs.Create({}, now_));
    }
    RunGrid grid(state, run_id);
    ASSERT_THAT(grid.PushMessages({Instruction(node.id)}), IsOk());
    ASSERT_OK_AND_ASSIGN(const auto pulled, node.Pull());
    ASSERT_OK_AND_ASSIGN(const Metadata instruction,
                         wire::MetadataFromProto(pulled.messages_list(0).metadata(), {}));
    PackedReply big = node.PackReply(instruction, Big(7));
    // Ids and times are as long as in the first reply, up to a byte or two in the metadata.
    int64_t size = 0;
    for (const wire::Object& object : big.objects) size += object.bytes->size();
    const bool fits = size <= options.limits.max_message_bytes;
    EXPECT_EQ(node.PushAll(big).ok(), fits) << size;
    options.limits.max_message_bytes += less;
  }
}

TEST_F(ReplyTest, F30_UnknownFieldsAndMessageTypesPass) {
  PackedReply reply = Tampered([](Metadata& m) { m.message_type = "new_type.new_action"; });
  std::string bytes = reply.request.SerializeAsString();
  bytes += "\xFA\x3F\x03new";  // field 1023
  ASSERT_TRUE(reply.request.ParseFromString(bytes));
  EXPECT_THAT(node_.PushAll(reply), IsOk());
  EXPECT_THAT(Replies({instruction_.message_id}), SizeIs(1));
}

}  // namespace
}  // namespace fedumm::link
