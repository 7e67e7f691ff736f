// Many objects in one call, without a network.
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "base/sha256.h"
#include "tests/link/link_fixture.h"
#include "wire/object_frame.h"

namespace fedumm::link {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

class ObjectStreamsTest : public LinkFixture {
 protected:
  ObjectStreamsTest() {
    EXPECT_THAT(node_.Join(), IsOk());
    EXPECT_THAT(other_.Join(), IsOk());
  }
  static std::vector<std::string> TreeOf(const flwr::proto::PullMessagesResponse& pulled) {
    return *wire::TreeIds(pulled.message_object_trees(0), {});
  }
  absl::StatusOr<ObjectPull> StartPull(TestNode& node, const std::vector<std::string>& ids) {
    proto::PullObjectsRequest request;
    request.set_node_id(node.id);
    request.set_run_id(grid_->run_id());
    for (const std::string& id : ids) request.add_object_ids(id);
    return fleet_.PullObjects(node.Sign(), request);
  }
  // Sends an instruction, and announces a reply to it.
  void Announce() {
    instruction_ = Send(node_);
    reply_ = node_.PackReply(instruction_, Content(7));
    const auto announced = node_.Push(reply_);
    ASSERT_THAT(announced, IsOk());
    session_ = announced->session_id();
    for (const wire::Object& object : reply_.objects) {
      if (std::find(announced->objects_to_push().begin(), announced->objects_to_push().end(),
                    object.id) != announced->objects_to_push().end()) {
        missing_.push_back(object);
      }
    }
    ASSERT_THAT(missing_, Not(IsEmpty()));
  }
  ObjectPush StartPush() {
    return *fleet_.PushObjects(node_.Sign(), {node_.id, grid_->run_id(), session_});
  }

  Metadata instruction_;
  PackedReply reply_;
  std::string session_;
  std::vector<wire::Object> missing_;
};

TEST_F(ObjectStreamsTest, PullBringsAllObjectsOfAMessageInTheOrderAsked) {
  ASSERT_THAT(grid_->PushMessages({Instruction(node_.id)}), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto pulled, node_.Pull());
  const std::vector<std::string> ids = TreeOf(pulled);
  ASSERT_OK_AND_ASSIGN(ObjectPull pull, StartPull(node_, ids));
  ASSERT_OK_AND_ASSIGN(const auto objects, pull.Next(wire::kFrameBytes));
  ASSERT_THAT(objects, SizeIs(ids.size()));
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(objects[i].id, ids[i]);
    EXPECT_EQ(Sha256Hex(*objects[i].bytes), ids[i]);
  }
  ASSERT_OK_AND_ASSIGN(const auto end, pull.Next(wire::kFrameBytes));
  EXPECT_THAT(end, IsEmpty());
}

TEST_F(ObjectStreamsTest, PullGivesOneObjectAtATimeWhereMoreDoNotFit) {
  ASSERT_THAT(grid_->PushMessages({Instruction(node_.id)}), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto pulled, node_.Pull());
  const std::vector<std::string> ids = TreeOf(pulled);
  ASSERT_OK_AND_ASSIGN(ObjectPull pull, StartPull(node_, ids));
  for (const std::string& id : ids) {
    ASSERT_OK_AND_ASSIGN(const auto objects, pull.Next(1));
    ASSERT_THAT(objects, SizeIs(1));
    EXPECT_EQ(objects[0].id, id);
  }
}

TEST_F(ObjectStreamsTest, PullLeavesOutWhatIsForOthersOrUnknown) {
  ASSERT_THAT(grid_->PushMessages({Instruction(node_.id)}), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto pulled, node_.Pull());
  std::vector<std::string> ids = TreeOf(pulled);
  ids.push_back(std::string(64, 'a'));
  ASSERT_OK_AND_ASSIGN(ObjectPull pull, StartPull(other_, ids));
  ASSERT_OK_AND_ASSIGN(const auto objects, pull.Next(wire::kFrameBytes));
  EXPECT_THAT(objects, IsEmpty());
}

TEST_F(ObjectStreamsTest, PullForAnotherNodeIsUnauthenticated) {
  proto::PullObjectsRequest request;
  request.set_node_id(node_.id);
  EXPECT_THAT(fleet_.PullObjects(other_.Sign(), request).status(),
              StatusIs(absl::StatusCode::kUnauthenticated));
}

TEST_F(ObjectStreamsTest, PullEndsWithItsRun) {
  ASSERT_THAT(grid_->PushMessages({Instruction(node_.id)}), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto pulled, node_.Pull());
  ASSERT_OK_AND_ASSIGN(ObjectPull pull, StartPull(node_, TreeOf(pulled)));
  grid_.reset();
  EXPECT_THAT(pull.Next(1).status(), StatusIs(absl::StatusCode::kPermissionDenied));
}

TEST_F(ObjectStreamsTest, EveryFrameRenewsTheLease) {
  ASSERT_THAT(grid_->PushMessages({Instruction(node_.id)}), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto pulled, node_.Pull());
  ASSERT_OK_AND_ASSIGN(ObjectPull pull, StartPull(node_, TreeOf(pulled)));
  for (int frame = 0; frame < 3; ++frame) {  // together longer than a lease
    now_ += absl::Seconds(45);
    ASSERT_THAT(node_.Heartbeat(), IsOk());
    ASSERT_OK_AND_ASSIGN(const auto objects, pull.Next(1));
    EXPECT_THAT(objects, SizeIs(1));
    fleet_.Tick();
    EXPECT_FALSE(node_.Offered());
  }
}

TEST_F(ObjectStreamsTest, PushCompletesAReply) {
  Announce();
  ObjectPush push = StartPush();
  for (const wire::Object& object : missing_) {
    ASSERT_OK_AND_ASSIGN(const bool stored, push.Add(object.id, *object.bytes));
    EXPECT_TRUE(stored);
  }
  EXPECT_EQ(push.response().num_stored(), missing_.size());
  const std::vector<Message> replies = Replies({instruction_.message_id});
  ASSERT_THAT(replies, SizeIs(1));
  EXPECT_EQ(replies[0].content, Content(7));
}

TEST_F(ObjectStreamsTest, PushOfAnUnaskedObjectIsRefusedAndChangesNothing) {
  Announce();
  const std::string bytes = wire::FormatObject("ArrayChunk", {}, "abc");
  ObjectPush push = StartPush();
  ASSERT_OK_AND_ASSIGN(const bool stored, push.Add(Sha256Hex(bytes), bytes));
  EXPECT_FALSE(stored);
  EXPECT_EQ(push.response().refused_object_id(), Sha256Hex(bytes));
  EXPECT_THAT(Replies({instruction_.message_id}), IsEmpty());
}

TEST_F(ObjectStreamsTest, PushOfOtherBytesIsRefused) {
  Announce();
  ObjectPush push = StartPush();
  ASSERT_OK_AND_ASSIGN(const bool stored,
                       push.Add(missing_[0].id, wire::FormatObject("ArrayChunk", {}, "forged")));
  EXPECT_FALSE(stored);
  EXPECT_EQ(push.response().refused_object_id(), missing_[0].id);
}

TEST_F(ObjectStreamsTest, PushThatStopsHalfWayIsContinued) {
  Announce();
  {
    ObjectPush push = StartPush();
    ASSERT_THAT(push.Add(missing_[0].id, *missing_[0].bytes), IsOk());
  }
  const auto again = node_.Push(reply_);
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->objects_to_push_size(), missing_.size() - 1);
}

// Frames.

absl::StatusOr<wire::ReceivedFrame> Parse(const std::string& bytes, const Limits& limits = {}) {
  google::protobuf::io::ArrayInputStream stream(bytes.data(), static_cast<int>(bytes.size()), 7);
  return wire::ParseObjectFrame(stream, bytes.size(), limits);
}
wire::Object MakeObject(const std::string& body) {
  const std::string bytes = wire::FormatObject("ArrayChunk", {}, body);
  return {.id = Sha256Hex(bytes), .bytes = std::make_shared<const std::string>(bytes)};
}

TEST(ObjectFrame, IsWhatProtobufReadsAndWrites) {
  const std::vector<wire::Object> objects = {MakeObject("one"), MakeObject(std::string(300, 'x'))};
  proto::PushObjectsRequest sender;
  sender.set_node_id(5);
  sender.set_run_id(6);
  sender.set_session_id("seven");
  const std::string frame = wire::FormatFrame(sender.SerializeAsString(), objects);

  proto::PushObjectsRequest read;
  ASSERT_TRUE(read.ParseFromString(frame));
  ASSERT_EQ(read.objects_size(), 2);
  EXPECT_EQ(read.objects(1).object_id(), objects[1].id);
  EXPECT_EQ(read.objects(1).content(), *objects[1].bytes);

  ASSERT_OK_AND_ASSIGN(const wire::ReceivedFrame ours, Parse(read.SerializeAsString()));
  EXPECT_EQ(ours.node_id, 5);
  EXPECT_EQ(ours.run_id, 6);
  EXPECT_EQ(ours.session_id, "seven");
  ASSERT_THAT(ours.objects, SizeIs(2));
  EXPECT_EQ(ours.objects[0].id, objects[0].id);
  EXPECT_EQ(ours.objects[1].bytes, *objects[1].bytes);
}

TEST(ObjectFrame, EveryTruncationIsRefusedOrShorter) {
  const std::vector<wire::Object> objects = {MakeObject("one"), MakeObject("two")};
  const std::string frame = wire::FormatFrame("", objects);
  for (size_t size = 0; size < frame.size(); ++size) {
    const auto parsed = Parse(frame.substr(0, size));
    if (parsed.ok()) {
      EXPECT_LT(parsed->objects.size(), 2);
    }
  }
}

TEST(ObjectFrame, LengthsThatLieAreRefused) {
  const std::string id(64, 'a');
  for (const uint32_t length : {100u, 1u << 20, 0x7fffffffu, 0xffffffffu}) {
    const std::string prefix = wire::ObjectPrefix(id, length);
    EXPECT_THAT(Parse(prefix + "short").status(), StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

TEST(ObjectFrame, AnObjectBeyondTheLimitIsRefused) {
  const std::string frame = wire::FormatFrame("", std::vector{MakeObject(std::string(200, 'x'))});
  EXPECT_THAT(Parse(frame), IsOk());
  EXPECT_THAT(Parse(frame, {.max_object_bytes = 100}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace fedumm::link
