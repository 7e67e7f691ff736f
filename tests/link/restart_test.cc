// A server that starts anew, with empty hands, and nodes that know nothing of it.
#include <vector>

#include "link/admission.h"
#include "tests/link/link_fixture.h"

namespace fedumm::link {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::IsOk;
using testing::IsOkAndHolds;
using testing::StatusIs;

constexpr auto kStranger = absl::StatusCode::kUnauthenticated;

// `node_` calls the new server, with the id that the old one gave it.
class RestartTest : public LinkFixture {
 protected:
  explicit RestartTest(bool known_keys_only = false) : LinkFixture(known_keys_only) {}

  std::string KeyOf(const TestNode& node) { return node.Sign().public_key; }
  void SetUp() override {
    LinkState former({.clock = [this] { return now_; }, .timer = [this] { return now_; }});
    Fleet fleet(former);
    flwr::proto::RegisterNodeFleetRequest request;
    request.set_public_key(KeyOf(node_));
    ASSERT_OK_AND_ASSIGN(const auto registered, fleet.RegisterNode(node_.Sign(), request));
    node_.id = registered.node_id();
  }
};

TEST_F(RestartTest, NodeComesBackWithItsNextHeartbeat) {
  EXPECT_THAT(grid_->NodeIds(), IsEmpty());
  EXPECT_THAT(node_.Heartbeat(), IsOk());
  EXPECT_THAT(grid_->NodeIds(), ElementsAre(node_.id));
  now_ += absl::Seconds(59);
  EXPECT_THAT(grid_->NodeIds(), ElementsAre(node_.id));
}

TEST_F(RestartTest, NodeComesBackWithItsNextPullAndIsInstructed) {
  EXPECT_THAT(node_.Pull(), IsOk());
  EXPECT_THAT(grid_->NodeIds(), ElementsAre(node_.id));
  now_ += absl::Seconds(59);
  EXPECT_THAT(grid_->NodeIds(), ElementsAre(node_.id));
  const Metadata instruction = Send(node_);
  EXPECT_THAT(node_.PushAll(node_.PackReply(instruction, Content(2))), IsOk());
  EXPECT_EQ(Replies({instruction.message_id}).size(), 1);
}

TEST_F(RestartTest, NodeKeepsItsIdWhenItRegistersAgain) {
  const uint64_t id = node_.id;
  EXPECT_THAT(node_.Join(), IsOk());
  EXPECT_EQ(node_.id, id);
}

TEST_F(RestartTest, KeyComesBackAsItsOwnNodeOnly) {
  other_.id = node_.id;
  EXPECT_THAT(other_.Heartbeat(), StatusIs(kStranger));
  EXPECT_THAT(other_.Pull(), StatusIs(kStranger));
  EXPECT_THAT(grid_->NodeIds(), IsEmpty());
}

TEST_F(RestartTest, UnregisteredKeyDoesNotComeBack) {
  ASSERT_THAT(node_.Heartbeat(), IsOk());
  ASSERT_THAT(node_.Unregister(), IsOk());
  EXPECT_THAT(node_.Heartbeat(), StatusIs(kStranger));
  EXPECT_THAT(node_.Pull(), StatusIs(kStranger));
}

class RestartOfAClosedServerTest : public RestartTest {
 protected:
  RestartOfAClosedServerTest() : RestartTest(/*known_keys_only=*/true) {}
  Admission admission_{state_};
};

TEST_F(RestartOfAClosedServerTest, AllowedKeysComeBackAndNoOthers) {
  EXPECT_THAT(node_.Heartbeat(), StatusIs(kStranger));
  ASSERT_THAT(admission_.AllowKeys({KeyOf(node_)}), IsOk());
  EXPECT_THAT(node_.Heartbeat(), IsOk());
  EXPECT_THAT(grid_->NodeIds(), ElementsAre(node_.id));
  ASSERT_THAT(admission_.AllowKeys({}), IsOk());
  EXPECT_THAT(node_.Heartbeat(), StatusIs(kStranger));
}

TEST_F(RestartOfAClosedServerTest, KeyRegisteredByNameHasTheIdThatItHad) {
  EXPECT_THAT(admission_.RegisterNode({.public_key = KeyOf(node_)}), IsOkAndHolds(node_.id));
  EXPECT_THAT(node_.Heartbeat(), IsOk());
}

}  // namespace
}  // namespace fedumm::link
