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

TEST(NodeRegistryTest, NodesThatLeftMakeRoomForNewOnes) {
  NodeRegistry registry({.max_nodes = 2});
  const auto first = registry.Register("a");
  ASSERT_THAT(first, IsOk());
  ASSERT_THAT(registry.Register("b"), IsOk());
  EXPECT_THAT(registry.Register("c"), StatusIs(absl::StatusCode::kUnavailable));
  ASSERT_THAT(registry.Unregister(*first, absl::InfinitePast()), IsOk());
  EXPECT_THAT(registry.Register("c"), IsOk());
  EXPECT_THAT(registry.Register("d"), StatusIs(absl::StatusCode::kUnavailable));
  // Calls of the forgotten node that were on their way find nobody.
  EXPECT_THAT(registry.Heartbeat(*first, 30, absl::UnixEpoch()),
              StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_FALSE(registry.Deactivate(*first, absl::UnixEpoch()));
  EXPECT_FALSE(registry.Pulls(*first, absl::UnixEpoch(), absl::UnixEpoch()));
  EXPECT_EQ(registry.List(absl::UnixEpoch()).size(), 2);
}

TEST(NodeRegistryTest, RevokedKeysAreNeverForgotten) {
  NodeRegistry registry({.max_nodes = 1});
  const auto node = registry.Register("a");
  ASSERT_THAT(registry.Revoke(*node, absl::UnixEpoch()), IsOk());
  EXPECT_THAT(registry.Register("b"), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(registry.Register("a"), StatusIs(absl::StatusCode::kFailedPrecondition));
}

}  // namespace
}  // namespace fedumm::link
