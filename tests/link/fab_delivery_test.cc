// App bundles: who gets one, and what becomes of a Python node where there is none.
#include <memory>

#include "fedumm/fab.h"
#include "tests/link/link_fixture.h"

namespace fedumm::link {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

class FabDeliveryTest : public LinkFixture {
 protected:
  void SetUp() override {
    ASSERT_THAT(node_.Join(), IsOk());
    ASSERT_THAT(other_.Join(), IsOk());
  }
  absl::StatusOr<std::unique_ptr<Grid>> NewRunOf(ConfigRecord config) {
    MutexLock lock(state_.mu);
    const auto id = state_.runs.Create({.run_config = std::move(config), .fab = fab_}, now_);
    if (!id.ok()) return id.status();
    return std::make_unique<RunGrid>(state_, *id);
  }
  absl::StatusOr<flwr::proto::GetFabResponse> GetFab(TestNode& node, uint64_t run_id,
                                                     const std::string& hash) {
    auto request = node.Request<flwr::proto::GetFabRequest>();
    request.set_run_id(run_id);
    request.set_hash_str(hash);
    return fleet_.GetFab(node.Sign(), request);
  }

  const std::shared_ptr<const Fab> fab_ =
      std::make_shared<const Fab>(Fab::Load(FEDUMM_TEST_DATA "/fab/mean-app.fab").value());
};

TEST_F(FabDeliveryTest, ANodeGetsTheBundleThatItsRunNames) {
  ASSERT_OK_AND_ASSIGN(const auto grid, NewRunOf({{"note", "mine"}}));
  auto asked = node_.Request<flwr::proto::GetRunRequest>();
  asked.set_run_id(grid->run_id());
  ASSERT_OK_AND_ASSIGN(const auto run, fleet_.GetRun(node_.Sign(), asked));
  EXPECT_EQ(run.run().fab_id(), "fedumm/mean-app");
  EXPECT_EQ(run.run().fab_version(), "1.2.0");
  EXPECT_EQ(run.run().fab_hash(), fab_->hash());
  EXPECT_EQ(run.run().series_id(), grid->run_id());
  ASSERT_OK_AND_ASSIGN(const auto response, GetFab(node_, grid->run_id(), run.run().fab_hash()));
  EXPECT_EQ(response.fab().hash_str(), fab_->hash());
  EXPECT_EQ(response.fab().content(), fab_->content());
}

TEST_F(FabDeliveryTest, ABundleBelongsToItsRunWhileThatRuns) {
  ASSERT_OK_AND_ASSIGN(auto grid, NewRunOf({}));
  const uint64_t run_id = grid->run_id();
  EXPECT_THAT(GetFab(node_, run_id, std::string(64, '0')),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(GetFab(node_, 12345, fab_->hash()), StatusIs(absl::StatusCode::kPermissionDenied));
  grid.reset();
  EXPECT_THAT(GetFab(node_, run_id, fab_->hash()), StatusIs(absl::StatusCode::kPermissionDenied));
}

TEST_F(FabDeliveryTest, OnlyTheNodeItselfMayAsk) {
  ASSERT_OK_AND_ASSIGN(const auto grid, NewRunOf({}));
  auto request = node_.Request<flwr::proto::GetFabRequest>();
  request.set_run_id(grid->run_id());
  request.set_hash_str(fab_->hash());
  EXPECT_THAT(fleet_.GetFab(other_.Sign(), request), StatusIs(absl::StatusCode::kUnauthenticated));
}

TEST_F(FabDeliveryTest, AKeyThatTheBundleDoesNotHaveCannotBeOverridden) {
  EXPECT_THAT(NewRunOf({{"nothing", int64_t{1}}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'nothing'")));
}

TEST_F(FabDeliveryTest, WithoutABundleANodeThatNeedsOneIsAnErrorAtOnce) {
  ASSERT_OK_AND_ASSIGN(const auto ids,
                       grid_->PushMessages({Instruction(node_.id), Instruction(other_.id)}));
  ASSERT_TRUE(node_.Offered());
  ASSERT_TRUE(other_.Offered());
  EXPECT_THAT(GetFab(node_, grid_->run_id(), ""), StatusIs(absl::StatusCode::kPermissionDenied));

  const std::vector<Message> replies = Replies(ids);
  ASSERT_EQ(replies.size(), 1) << "the other node goes on";
  EXPECT_EQ(replies[0].metadata.src_node_id, node_.id);
  EXPECT_EQ(replies[0].metadata.reply_to_message_id, ids[0]);
  ASSERT_TRUE(replies[0].has_error());
  EXPECT_EQ(replies[0].error->code, ErrorCode::kInvalidFab);
  EXPECT_THAT(replies[0].error->reason, HasSubstr("--fab"));
  EXPECT_FALSE(node_.Offered());
  // Nor does its next start bring it back, nor the end of its lease.
  EXPECT_TRUE(Replies(ids).empty());
  ASSERT_THAT(node_.Activate(), IsOk());
  now_ += absl::Minutes(2);
  fleet_.Tick();
  EXPECT_FALSE(node_.Offered());
}

TEST_F(FabDeliveryTest, WhatWasNotOfferedYetIsRefusedWhenItsTurnComes) {
  ASSERT_OK_AND_ASSIGN(const auto ids,
                       grid_->PushMessages({Instruction(node_.id), Instruction(node_.id)}));
  ASSERT_TRUE(node_.Offered());
  EXPECT_FALSE(GetFab(node_, grid_->run_id(), "").ok());
  EXPECT_EQ(Replies(ids).size(), 1);
  ASSERT_TRUE(node_.Offered());
  EXPECT_FALSE(GetFab(node_, grid_->run_id(), "").ok());
  EXPECT_EQ(Replies(ids).size(), 1);
}

TEST_F(FabDeliveryTest, AReplyToARefusedInstructionIsNotTaken) {
  const Metadata instruction = Send(node_);
  EXPECT_FALSE(GetFab(node_, grid_->run_id(), "").ok());
  ASSERT_OK_AND_ASSIGN(const auto pushed, node_.Push(node_.PackReply(instruction, Content(1))));
  EXPECT_TRUE(pushed.objects_to_push().empty());
  const std::vector<Message> replies = Replies({instruction.message_id});
  ASSERT_EQ(replies.size(), 1);
  EXPECT_TRUE(replies[0].has_error());
}

}  // namespace
}  // namespace fedumm::link
