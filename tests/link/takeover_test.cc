// F24: a node restarts with its key while its former self still calls.
#include <string>
#include <vector>

#include "tests/link/link_fixture.h"

namespace fedumm::link {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::IsOk;
using testing::StatusIs;

class F24_TakeoverTest : public LinkFixture {
 protected:
  F24_TakeoverTest() { EXPECT_THAT(node_.Join(), IsOk()); }

  absl::Status Deactivate(const Caller& caller) {
    flwr::proto::DeactivateNodeRequest request;
    request.set_node_id(node_.id);
    return fleet_.DeactivateNode(caller, request).status();
  }
  absl::Status Heartbeat(const Caller& caller) {
    auto request = node_.Request<flwr::proto::SendNodeHeartbeatRequest>();
    request.set_heartbeat_interval(30);
    return fleet_.SendNodeHeartbeat(caller, request).status();
  }
};

TEST_F(F24_TakeoverTest, FormerSelfCannotDeactivateWithALateCall) {
  const Caller late = node_.Sign();
  now_ += absl::Seconds(1);
  ASSERT_THAT(node_.Activate(), IsOk());
  int answers = 0;
  node_.PullLater(absl::Seconds(10), 1, [&](const auto&) { ++answers; });
  EXPECT_THAT(Deactivate(late), IsOk());
  EXPECT_THAT(grid_->NodeIds(), ElementsAre(node_.id));
  EXPECT_EQ(answers, 0);
}

TEST_F(F24_TakeoverTest, PullBringsANodeBackThatItsFormerSelfDeactivated) {
  now_ += absl::Seconds(1);
  ASSERT_THAT(node_.Activate(), IsOk());
  now_ += absl::Seconds(1);
  ASSERT_THAT(node_.Deactivate(), IsOk());  // by the former self, which was stopped
  EXPECT_THAT(grid_->NodeIds(), IsEmpty());
  now_ += absl::Seconds(1);
  ASSERT_THAT(node_.Pull(), IsOk());
  EXPECT_THAT(grid_->NodeIds(), ElementsAre(node_.id));
}

TEST_F(F24_TakeoverTest, CallsSignedBeforeTheDeactivationBringNobodyBack) {
  const Caller late_heartbeat = node_.SignAt(now_ - absl::Microseconds(2));
  const Caller late_pull = node_.SignAt(now_ - absl::Microseconds(1));
  ASSERT_THAT(node_.Deactivate(), IsOk());
  EXPECT_THAT(Heartbeat(late_heartbeat), IsOk());
  bool answered = false;
  fleet_.PullMessages(late_pull, node_.Request<flwr::proto::PullMessagesRequest>(),
                      absl::ZeroDuration(), 1, [&](const auto&) { answered = true; });
  EXPECT_TRUE(answered);
  EXPECT_THAT(grid_->NodeIds(), IsEmpty());
}

TEST_F(F24_TakeoverTest, PullAfterTheLeaseBringsNobodyBack) {
  ASSERT_THAT(node_.Deactivate(), IsOk());
  now_ += absl::Seconds(60);
  ASSERT_THAT(node_.Pull(), IsOk());
  EXPECT_THAT(grid_->NodeIds(), IsEmpty());
}

TEST_F(F24_TakeoverTest, ConfirmationOfAnEarlierOfferLosesNoMessage) {
  const Metadata instruction = Send(node_);
  ASSERT_THAT(node_.Activate(), IsOk());
  EXPECT_THAT(node_.Confirm(instruction), IsOk());  // the former self's
  EXPECT_TRUE(node_.Offered());
  EXPECT_THAT(node_.Confirm(instruction), IsOk());
  EXPECT_FALSE(node_.Offered());
}

TEST_F(F24_TakeoverTest, ReplyOfTheFormerSelfIsAsGood) {
  const Metadata instruction = Send(node_);
  const PackedReply reply = node_.PackReply(instruction, Content(2));
  ASSERT_THAT(node_.Activate(), IsOk());
  EXPECT_THAT(node_.PushAll(reply), IsOk());
  EXPECT_EQ(Replies({instruction.message_id}).size(), 1);
}

TEST_F(F24_TakeoverTest, HeldPullsReplaceEachOther) {
  int former = 0;
  int present = 0;
  node_.PullLater(absl::Seconds(10), 1, [&](const auto&) { ++former; });
  ASSERT_THAT(node_.Activate(), IsOk());
  EXPECT_EQ(former, 1);
  node_.PullLater(absl::Seconds(10), 2, [&](const auto&) { ++present; });
  fleet_.CancelPull(node_.id, 1);  // the former self's connection ends now
  EXPECT_EQ(present, 0);
  ASSERT_THAT(grid_->PushMessages({Instruction(node_.id)}), IsOk());
  EXPECT_EQ(present, 1);
}

constexpr absl::Time kStart = absl::UnixEpoch();

TEST(NodeRegistryTest, NodesThatLeftMakeRoomForNewOnes) {
  NodeRegistry registry({.max_nodes = 2});
  ASSERT_OK_AND_ASSIGN(const uint64_t first, registry.Register("a", kStart));
  ASSERT_THAT(registry.Register("b", kStart), IsOk());
  ASSERT_THAT(registry.Activate("a", 30, kStart), IsOk());
  ASSERT_THAT(registry.Activate("b", 30, kStart), IsOk());
  EXPECT_THAT(registry.Register("c", kStart), StatusIs(absl::StatusCode::kUnavailable));
  ASSERT_THAT(registry.Unregister(first, kStart), IsOk());
  ASSERT_THAT(registry.Register("c", kStart), IsOk());
  ASSERT_THAT(registry.Activate("c", 30, kStart), IsOk());
  EXPECT_THAT(registry.Register("d", kStart), StatusIs(absl::StatusCode::kUnavailable));
  // Calls of the forgotten node that were on their way find nobody.
  EXPECT_THAT(registry.Heartbeat(first, 30, kStart), StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_FALSE(registry.Deactivate(first, kStart));
  EXPECT_FALSE(registry.ReactivateOnPull(first, kStart, kStart));
  EXPECT_EQ(registry.List(kStart).size(), 2);
}

TEST(NodeRegistryTest, KeysThatNeverJoinedAreEvictedFirstThenTheNodeThatWasLostFirst) {
  NodeRegistry registry({.max_nodes = 3});
  for (const char* key : {"idle", "silent", "there"}) {
    ASSERT_THAT(registry.Register(key, kStart), IsOk());
  }
  ASSERT_THAT(registry.Activate("silent", 30, kStart), IsOk());
  ASSERT_THAT(registry.Activate("there", 10, kStart), IsOk());
  const absl::Time now = kStart + absl::Seconds(61);
  ASSERT_THAT(registry.Heartbeat(*registry.Find("there"), 10, now), IsOk());
  ASSERT_THAT(registry.Register("new", now), IsOk());
  EXPECT_EQ(registry.Find("idle"), std::nullopt);
  ASSERT_THAT(registry.Activate("new", 30, now), IsOk());
  ASSERT_THAT(registry.Register("newer", now), IsOk());
  EXPECT_EQ(registry.Find("silent"), std::nullopt);
  EXPECT_TRUE(registry.Find("there").has_value());
  EXPECT_TRUE(registry.Find("new").has_value());
}

TEST(NodeRegistryTest, NodesThatAnOperatorLetInAreNotForgotten) {
  NodeRegistry open({.max_nodes = 1});
  ASSERT_THAT(open.Enrol({.public_key = "a"}, kStart), IsOk());
  EXPECT_THAT(open.Register("b", kStart), StatusIs(absl::StatusCode::kUnavailable));
  NodeRegistry closed({.max_nodes = 1, .known_keys_only = true});
  closed.Allow({"a", "b"}, kStart);
  ASSERT_THAT(closed.Register("a", kStart), IsOk());
  EXPECT_THAT(closed.Register("b", kStart), StatusIs(absl::StatusCode::kUnavailable));
}

TEST(NodeRegistryTest, RevokedKeysAreNeverForgotten) {
  NodeRegistry registry({.max_nodes = 1});
  ASSERT_OK_AND_ASSIGN(const uint64_t node, registry.Register("a", kStart));
  ASSERT_THAT(registry.Revoke(node, kStart), IsOk());
  EXPECT_THAT(registry.Register("b", kStart), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(registry.Register("a", kStart), StatusIs(absl::StatusCode::kFailedPrecondition));
}

}  // namespace
}  // namespace fedumm::link
