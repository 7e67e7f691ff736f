#include "link/admission.h"

#include <string>
#include <vector>

#include "base/file.h"
#include "tests/link/link_fixture.h"

namespace fedumm::link {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::IsOk;
using testing::IsOkAndHolds;
using testing::StatusIs;

constexpr auto kRefused = absl::StatusCode::kFailedPrecondition;
constexpr auto kStranger = absl::StatusCode::kUnauthenticated;

std::string KeyOf(const TestNode& node) { return node.Sign().public_key; }

// A SuperLink that only takes known keys.
class AdmissionTest : public LinkFixture {
 protected:
  AdmissionTest() : LinkFixture(/*known_keys_only=*/true) {}

  // Instructs the node, which answers in full; returns the instruction's id.
  std::string Answered(TestNode& node) {
    const auto ids = grid_->PushMessages({Instruction(node.id)});
    const auto pulled = node.Pull();
    const auto instruction = wire::MetadataFromProto(pulled->messages_list(0).metadata(), {});
    EXPECT_THAT(node.PushAll(node.PackReply(*instruction, Content(2))), IsOk());
    return ids->front();
  }
  flwr::proto::NodeInfo InfoOf(uint64_t node) {
    for (flwr::proto::NodeInfo& info : admission_.Nodes()) {
      if (info.node_id() == node) return std::move(info);
    }
    ADD_FAILURE() << "no node " << node;
    return {};
  }

  Admission admission_{state_};
};

// The same, where any key may register itself.
class OpenAdmissionTest : public LinkFixture {
 protected:
  Admission admission_{state_};
};

TEST_F(AdmissionTest, UnknownKeyMayNeitherRegisterNorActivate) {
  EXPECT_THAT(node_.Register(), StatusIs(kRefused, HasSubstr("registration is closed")));
  EXPECT_THAT(node_.Activate(), StatusIs(kRefused));
  EXPECT_THAT(node_.Heartbeat(), StatusIs(kStranger));
  EXPECT_THAT(admission_.Nodes(), IsEmpty());
}

TEST_F(AdmissionTest, AllowedKeyRegistersAndJoins) {
  ASSERT_THAT(admission_.AllowKeys({KeyOf(node_)}), IsOk());
  ASSERT_THAT(node_.Join(), IsOk());
  EXPECT_THAT(node_.Register(), IsOkAndHolds(node_.id));
  EXPECT_THAT(grid_->NodeIds(), ElementsAre(node_.id));
  EXPECT_THAT(other_.Register(), StatusIs(kRefused));
}

TEST_F(AdmissionTest, AllowedKeyMayActivateWithoutRegistering) {
  ASSERT_THAT(admission_.AllowKeys({KeyOf(node_)}), IsOk());
  ASSERT_OK_AND_ASSIGN(node_.id, node_.Activate());
  EXPECT_THAT(node_.Heartbeat(), IsOk());
}

TEST_F(AdmissionTest, KeysComeInOpenSshsFormToo) {
  const std::string line = ReadFile(FEDUMM_TEST_DATA "/keys/ssh_keygen_p384.pub", 1 << 20).value();
  const std::string pem =
      ReadFile(FEDUMM_TEST_DATA "/keys/ssh_keygen_p384.pem.expected", 1 << 20).value();
  ASSERT_OK_AND_ASSIGN(const uint64_t node, admission_.RegisterNode({.public_key = line}));
  EXPECT_EQ(InfoOf(node).public_key(), pem);
  EXPECT_THAT(admission_.RegisterNode({.public_key = pem}),
              StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_F(AdmissionTest, ListWithABadEntryChangesNothing) {
  ASSERT_THAT(admission_.AllowKeys({KeyOf(node_)}), IsOk());
  EXPECT_THAT(admission_.AllowKeys({KeyOf(other_), "ssh-rsa AAAA"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("number 2")));
  EXPECT_THAT(node_.Join(), IsOk());
  EXPECT_THAT(other_.Register(), StatusIs(kRefused));
}

TEST_F(AdmissionTest, F29_KeyThatIsNoLongerAllowedIsTurnedAway) {
  ASSERT_THAT(admission_.AllowKeys({KeyOf(node_), KeyOf(other_)}), IsOk());
  ASSERT_THAT(node_.Join(), IsOk());
  ASSERT_THAT(other_.Join(), IsOk());
  ASSERT_THAT(admission_.AllowKeys({KeyOf(other_)}), IsOk());
  EXPECT_THAT(grid_->NodeIds(), ElementsAre(other_.id));
  EXPECT_THAT(node_.Heartbeat(), StatusIs(kStranger));
  EXPECT_THAT(node_.Pull(), StatusIs(kStranger));
  EXPECT_THAT(node_.Register(), StatusIs(kRefused));
  EXPECT_THAT(node_.Activate(), StatusIs(kRefused));
  EXPECT_THAT(grid_->PushMessages({Instruction(node_.id)}), IsOkAndHolds(ElementsAre("")));
  EXPECT_THAT(other_.Heartbeat(), IsOk());
}

TEST_F(AdmissionTest, KeyThatIsAllowedAgainComesBackAsTheSameNode) {
  ASSERT_THAT(admission_.AllowKeys({KeyOf(node_)}), IsOk());
  ASSERT_THAT(node_.Join(), IsOk());
  const uint64_t id = node_.id;
  ASSERT_THAT(admission_.AllowKeys({}), IsOk());
  ASSERT_THAT(admission_.AllowKeys({KeyOf(node_)}), IsOk());
  EXPECT_THAT(grid_->NodeIds(), IsEmpty());  // it has to activate again
  EXPECT_THAT(node_.Register(), IsOkAndHolds(id));
  EXPECT_THAT(node_.Activate(), IsOkAndHolds(id));
}

TEST_F(AdmissionTest, F29_ReplyOfARevokedNodeIsNotAggregated) {
  ASSERT_OK_AND_ASSIGN(node_.id, admission_.RegisterNode({.public_key = KeyOf(node_)}));
  ASSERT_THAT(node_.Activate(), IsOk());
  const std::string id = Answered(node_);
  ASSERT_THAT(admission_.UnregisterNode(node_.id), IsOk());
  const std::vector<Message> replies = Replies({id});
  ASSERT_EQ(replies.size(), 1);
  ASSERT_TRUE(replies[0].has_error());
  EXPECT_EQ(replies[0].error->code, ErrorCode::kNodeUnavailable);
  EXPECT_EQ(state_.objects.num_bytes(), 0);
}

TEST_F(AdmissionTest, F29_RevocationEndsTheWaitForAReplyThatIsUnderWay) {
  ASSERT_THAT(admission_.AllowKeys({KeyOf(node_)}), IsOk());
  ASSERT_THAT(node_.Join(), IsOk());
  const auto ids = grid_->PushMessages({Instruction(node_.id)});
  const auto pulled = node_.Pull();
  const auto instruction = wire::MetadataFromProto(pulled->messages_list(0).metadata(), {});
  const PackedReply reply = node_.PackReply(*instruction, Content(2));
  ASSERT_THAT(node_.Push(reply), IsOk());
  ASSERT_THAT(admission_.AllowKeys({}), IsOk());
  EXPECT_THAT(Replies(*ids), ElementsAre(::testing::ResultOf(
                                 [](const Message& m) { return m.has_error(); }, true)));
  EXPECT_THAT(node_.PushObject(grid_->run_id(), reply.objects[0]), StatusIs(kStranger));
}

TEST_F(AdmissionTest, F29_RevocationAnswersTheHeldPull) {
  ASSERT_THAT(admission_.AllowKeys({KeyOf(node_)}), IsOk());
  ASSERT_THAT(node_.Join(), IsOk());
  absl::Status answer;
  node_.PullLater(absl::Seconds(10), 1, [&](const auto& response) { answer = response.status(); });
  EXPECT_THAT(answer, IsOk());
  ASSERT_THAT(admission_.UnregisterNode(node_.id), IsOk());
  EXPECT_THAT(answer, StatusIs(kStranger));
}

TEST_F(AdmissionTest, RevokedKeyNeverComesBack) {
  ASSERT_THAT(admission_.AllowKeys({KeyOf(node_)}), IsOk());
  ASSERT_THAT(node_.Join(), IsOk());
  ASSERT_THAT(admission_.UnregisterNode(node_.id), IsOk());
  ASSERT_THAT(admission_.AllowKeys({KeyOf(node_)}), IsOk());
  EXPECT_THAT(node_.Heartbeat(), StatusIs(kStranger));
  EXPECT_THAT(node_.Register(), StatusIs(kRefused));
  EXPECT_THAT(node_.Activate(), StatusIs(kRefused));
  EXPECT_THAT(admission_.RegisterNode({.public_key = KeyOf(node_)}),
              StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_THAT(admission_.UnregisterNode(node_.id), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(AdmissionTest, NodeRegisteredByNameIsOfflineUntilItActivates) {
  ASSERT_OK_AND_ASSIGN(node_.id, admission_.RegisterNode({.public_key = KeyOf(node_)}));
  EXPECT_THAT(grid_->NodeIds(), IsEmpty());
  EXPECT_THAT(node_.Activate(), IsOkAndHolds(node_.id));
  EXPECT_THAT(grid_->NodeIds(), ElementsAre(node_.id));
}

TEST_F(AdmissionTest, NodeRegisteredByNameStaysWhateverIsAllowed) {
  ASSERT_OK_AND_ASSIGN(node_.id, admission_.RegisterNode({.public_key = KeyOf(node_)}));
  ASSERT_THAT(node_.Activate(), IsOk());
  ASSERT_THAT(admission_.AllowKeys({KeyOf(other_)}), IsOk());
  EXPECT_THAT(node_.Heartbeat(), IsOk());
}

TEST_F(AdmissionTest, NodeThatLeavesKeepsItsKey) {
  ASSERT_THAT(admission_.AllowKeys({KeyOf(node_)}), IsOk());
  ASSERT_THAT(node_.Join(), IsOk());
  EXPECT_THAT(node_.Unregister(), StatusIs(kRefused));
  EXPECT_THAT(grid_->NodeIds(), IsEmpty());
  EXPECT_THAT(node_.Activate(), IsOkAndHolds(node_.id));
}

TEST_F(AdmissionTest, TextsOfARegistrationAreBounded) {
  EXPECT_THAT(admission_.RegisterNode({.public_key = KeyOf(node_), .name = std::string(257, 'n')}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("257")));
  EXPECT_THAT(admission_.RegisterNode({.public_key = "no key"}),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(AdmissionTest, NodesAreDescribedAsFlowerDoes) {
  ASSERT_OK_AND_ASSIGN(
      node_.id, admission_.RegisterNode(
                    {.public_key = KeyOf(node_), .location = "48.1,11.6", .name = "clinic"}));
  flwr::proto::NodeInfo info = InfoOf(node_.id);
  EXPECT_EQ(info.status(), "registered");
  EXPECT_EQ(info.registered_at(), "2027-01-15T08:00:00.000000+00:00");
  EXPECT_EQ(info.public_key(), KeyOf(node_));
  EXPECT_EQ(info.location(), "48.1,11.6");
  EXPECT_EQ(info.name(), "clinic");
  EXPECT_EQ(info.owner_name(), "none");
  EXPECT_FALSE(info.has_last_activated_at());
  EXPECT_FALSE(info.has_online_until());

  now_ += absl::Seconds(10);
  ASSERT_THAT(node_.Activate(), IsOk());
  info = InfoOf(node_.id);
  EXPECT_EQ(info.status(), "online");
  EXPECT_EQ(info.last_activated_at(), "2027-01-15T08:00:10.000000+00:00");
  EXPECT_EQ(info.heartbeat_interval(), 30);
  EXPECT_EQ(info.online_until(), absl::ToDoubleSeconds(now_ - absl::UnixEpoch()) + 60);
  EXPECT_FALSE(info.has_last_deactivated_at());

  now_ += absl::Seconds(100);  // silent since its lease ended, 60 s after it activated
  info = InfoOf(node_.id);
  EXPECT_EQ(info.status(), "offline");
  EXPECT_EQ(info.last_deactivated_at(), "2027-01-15T08:01:10.000000+00:00");

  ASSERT_THAT(admission_.UnregisterNode(node_.id), IsOk());
  info = InfoOf(node_.id);
  EXPECT_EQ(info.status(), "unregistered");
  EXPECT_EQ(info.unregistered_at(), "2027-01-15T08:01:50.000000+00:00");
  EXPECT_EQ(info.last_deactivated_at(), "2027-01-15T08:01:10.000000+00:00");
}

TEST_F(OpenAdmissionTest, ListsOfKeysMeanNothingWhereAnyKeyMayJoin) {
  EXPECT_THAT(admission_.AllowKeys({KeyOf(node_)}), StatusIs(kRefused));
  EXPECT_THAT(other_.Join(), IsOk());
}

TEST_F(OpenAdmissionTest, KeyOfANodeThatRegisteredItselfIsInUse) {
  ASSERT_THAT(node_.Join(), IsOk());
  EXPECT_THAT(admission_.RegisterNode({.public_key = KeyOf(node_)}),
              StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_F(OpenAdmissionTest, NodeRegisteredByNameKeepsItsKeyHereToo) {
  ASSERT_OK_AND_ASSIGN(const uint64_t id, admission_.RegisterNode({.public_key = KeyOf(node_)}));
  ASSERT_THAT(node_.Join(), IsOk());
  EXPECT_EQ(node_.id, id);
  EXPECT_THAT(node_.Unregister(), StatusIs(kRefused));
  EXPECT_THAT(node_.Join(), IsOk());
}

TEST_F(OpenAdmissionTest, AnyNodeCanBeTurnedAway) {
  ASSERT_THAT(node_.Join(), IsOk());
  ASSERT_THAT(admission_.UnregisterNode(node_.id), IsOk());
  EXPECT_THAT(node_.Heartbeat(), StatusIs(kStranger));
  EXPECT_THAT(node_.Register(), StatusIs(kRefused));
}

}  // namespace
}  // namespace fedumm::link
