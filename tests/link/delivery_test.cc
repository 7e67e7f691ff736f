// How instructions reach their node: held pulls, leases, redelivery, and who may fetch what.
#include <optional>

#include "tests/link/link_fixture.h"

namespace fedumm::link {
namespace {

using flwr::proto::PullMessagesResponse;
using ::testing::ElementsAre;
using testing::IsOk;
using testing::StatusIs;

class DeliveryTest : public LinkFixture {
 protected:
  void SetUp() override {
    ASSERT_THAT(node_.Join(), IsOk());
    ASSERT_THAT(other_.Join(), IsOk());
  }
  PullDone Into(std::optional<absl::StatusOr<PullMessagesResponse>>& answer) {
    return [&answer](absl::StatusOr<PullMessagesResponse> response) {
      ASSERT_FALSE(answer.has_value()) << "answered twice";
      answer = std::move(response);
    };
  }
  int64_t NumMessages(const std::optional<absl::StatusOr<PullMessagesResponse>>& answer) {
    return answer.has_value() && answer->ok() ? (*answer)->messages_list_size() : -1;
  }
};

TEST_F(DeliveryTest, MessageComesWithEmptyContentAndItsTree) {
  ASSERT_OK_AND_ASSIGN(const auto ids, grid_->PushMessages({Instruction(node_.id)}));
  ASSERT_OK_AND_ASSIGN(const PullMessagesResponse response, node_.Pull());
  ASSERT_EQ(response.messages_list_size(), 1);
  ASSERT_EQ(response.message_object_trees_size(), 1);
  const flwr::proto::Message& message = response.messages_list(0);
  EXPECT_EQ(message.metadata().message_id(), ids[0]);
  EXPECT_EQ(response.message_object_trees(0).object_id(), ids[0]);
  EXPECT_EQ(message.metadata().src_node_id(), kSuperLinkNodeId);
  EXPECT_EQ(message.metadata().dst_node_id(), node_.id);
  EXPECT_EQ(message.metadata().run_id(), grid_->run_id());
  EXPECT_TRUE(message.has_content());
  EXPECT_EQ(message.content().items_size(), 0);
  EXPECT_FALSE(other_.Offered());
}

TEST_F(DeliveryTest, MessagesComeOneByOneInOrder) {
  ASSERT_OK_AND_ASSIGN(const auto ids,
                       grid_->PushMessages({Instruction(node_.id), Instruction(node_.id)}));
  ASSERT_NE(ids[0], ids[1]) << "equal messages are two messages";
  for (const std::string& id : ids) {
    ASSERT_OK_AND_ASSIGN(const PullMessagesResponse response, node_.Pull());
    ASSERT_EQ(response.messages_list_size(), 1);
    EXPECT_EQ(response.messages_list(0).metadata().message_id(), id);
  }
  EXPECT_FALSE(node_.Offered());
}

TEST_F(DeliveryTest, HeldPullIsAnsweredByThePush) {
  std::optional<absl::StatusOr<PullMessagesResponse>> answer;
  node_.PullLater(absl::Seconds(10), 1, Into(answer));
  EXPECT_FALSE(answer.has_value());
  ASSERT_THAT(grid_->PushMessages({Instruction(other_.id)}), IsOk());
  EXPECT_FALSE(answer.has_value());
  ASSERT_THAT(grid_->PushMessages({Instruction(node_.id)}), IsOk());
  EXPECT_EQ(NumMessages(answer), 1);
}

TEST_F(DeliveryTest, HeldPullIsEmptyWhenTheHoldEnds) {
  std::optional<absl::StatusOr<PullMessagesResponse>> answer;
  node_.PullLater(absl::Seconds(10), 1, Into(answer));
  now_ += absl::Seconds(9);
  fleet_.Tick();
  EXPECT_FALSE(answer.has_value());
  now_ += absl::Seconds(1);
  fleet_.Tick();
  EXPECT_EQ(NumMessages(answer), 0);
}

TEST_F(DeliveryTest, HeldPullIsEmptyAtStop) {
  std::optional<absl::StatusOr<PullMessagesResponse>> answer;
  node_.PullLater(absl::Seconds(10), 1, Into(answer));
  fleet_.Stop();
  EXPECT_EQ(NumMessages(answer), 0);
}

TEST_F(DeliveryTest, SecondPullTakesThePlaceOfTheFirst) {
  std::optional<absl::StatusOr<PullMessagesResponse>> first;
  std::optional<absl::StatusOr<PullMessagesResponse>> second;
  node_.PullLater(absl::Seconds(10), 1, Into(first));
  node_.PullLater(absl::Seconds(10), 2, Into(second));
  EXPECT_EQ(NumMessages(first), 0);
  ASSERT_THAT(grid_->PushMessages({Instruction(node_.id)}), IsOk());
  EXPECT_EQ(NumMessages(second), 1);
}

TEST_F(DeliveryTest, CancelledPullGetsNothing) {
  std::optional<absl::StatusOr<PullMessagesResponse>> answer;
  node_.PullLater(absl::Seconds(10), 1, Into(answer));
  fleet_.CancelPull(node_.id, 1);
  ASSERT_TRUE(answer.has_value());
  EXPECT_THAT(*answer, StatusIs(absl::StatusCode::kCancelled));
  ASSERT_THAT(grid_->PushMessages({Instruction(node_.id)}), IsOk());
  EXPECT_TRUE(node_.Offered());
}

TEST_F(DeliveryTest, MessageOfACancelledAnswerIsOfferedAgain) {
  ASSERT_THAT(grid_->PushMessages({Instruction(node_.id)}), IsOk());
  ASSERT_THAT(node_.Pull(/*ticket=*/5), IsOk());
  fleet_.CancelPull(node_.id, 4);
  EXPECT_FALSE(node_.Offered()) << "another pull's cancellation";
  fleet_.CancelPull(node_.id, 5);
  EXPECT_TRUE(node_.Offered());
}

TEST_F(DeliveryTest, CancelledAnswerGoesToThePullThatIsHeldMeanwhile) {
  ASSERT_THAT(grid_->PushMessages({Instruction(node_.id)}), IsOk());
  ASSERT_THAT(node_.Pull(/*ticket=*/5), IsOk());
  std::optional<absl::StatusOr<PullMessagesResponse>> answer;
  node_.PullLater(absl::Seconds(10), 6, Into(answer));
  fleet_.CancelPull(node_.id, 5);
  EXPECT_EQ(NumMessages(answer), 1);
}

TEST_F(DeliveryTest, F2_UnconfirmedMessageIsOfferedAgainAfterItsLease) {
  const Metadata instruction = Send(node_);
  std::optional<absl::StatusOr<PullMessagesResponse>> answer;
  node_.PullLater(absl::Minutes(10), 1, Into(answer));
  now_ += absl::Seconds(59);
  fleet_.Tick();
  EXPECT_FALSE(answer.has_value());
  now_ += absl::Seconds(1);
  fleet_.Tick();
  ASSERT_EQ(NumMessages(answer), 1);
  EXPECT_EQ((*answer)->messages_list(0).metadata().message_id(), instruction.message_id);
}

TEST_F(DeliveryTest, FetchingObjectsKeepsTheLease) {
  const Metadata instruction = Send(node_);
  now_ += absl::Seconds(50);
  ASSERT_OK_AND_ASSIGN(const auto object,
                       node_.PullObject(instruction.run_id, instruction.message_id));
  EXPECT_TRUE(object.object_available());
  now_ += absl::Seconds(50);
  EXPECT_FALSE(node_.Offered());
  now_ += absl::Seconds(10);
  EXPECT_TRUE(node_.Offered());
}

TEST_F(DeliveryTest, ConfirmedMessageIsNotOfferedAgain) {
  const Metadata instruction = Send(node_);
  ASSERT_THAT(node_.Confirm(instruction), IsOk());
  now_ += absl::Seconds(120);
  fleet_.Tick();
  EXPECT_FALSE(node_.Offered());
}

TEST_F(DeliveryTest, F2_NodeThatRestartsIsOfferedWhatItHasNotAnswered) {
  const Metadata confirmed = Send(node_);
  ASSERT_THAT(node_.Confirm(confirmed), IsOk());
  const Metadata answered = Send(node_);
  ASSERT_THAT(node_.PushAll(node_.PackReply(answered, Content(1))), IsOk());
  ASSERT_THAT(node_.Activate(), IsOk());
  ASSERT_OK_AND_ASSIGN(const PullMessagesResponse response, node_.Pull());
  ASSERT_EQ(response.messages_list_size(), 1);
  EXPECT_EQ(response.messages_list(0).metadata().message_id(), confirmed.message_id);
  ASSERT_OK_AND_ASSIGN(const auto object, node_.PullObject(confirmed.run_id, confirmed.message_id));
  EXPECT_TRUE(object.object_available());
  EXPECT_FALSE(node_.Offered());
}

TEST_F(DeliveryTest, F27_ExpiredMessageIsNotOffered) {
  ASSERT_THAT(grid_->PushMessages({Instruction(node_.id, /*ttl=*/5)}), IsOk());
  now_ += absl::Seconds(5);
  EXPECT_FALSE(node_.Offered());
}

TEST_F(DeliveryTest, F26_ObjectsAreForTheReceiverInItsRun) {
  const Metadata instruction = Send(node_);
  ASSERT_OK_AND_ASSIGN(auto object, other_.PullObject(instruction.run_id, instruction.message_id));
  EXPECT_FALSE(object.object_found());
  const std::unique_ptr<Grid> second_run = NewRun();
  ASSERT_OK_AND_ASSIGN(object, node_.PullObject(second_run->run_id(), instruction.message_id));
  EXPECT_FALSE(object.object_found());
  ASSERT_OK_AND_ASSIGN(object, node_.PullObject(instruction.run_id, std::string(64, '0')));
  EXPECT_FALSE(object.object_found());
}

TEST_F(DeliveryTest, F26_ConfirmOfAnotherNodeHasNoEffect) {
  const Metadata instruction = Send(node_);
  ASSERT_THAT(other_.Confirm(instruction), IsOk());
  now_ += absl::Seconds(60);
  EXPECT_TRUE(node_.Offered());
}

TEST_F(DeliveryTest, SharedContentIsStoredOnce) {
  ASSERT_THAT(grid_->PushMessages({Instruction(node_.id)}), IsOk());
  const int64_t alone = state_.objects.num_objects();
  ASSERT_THAT(grid_->PushMessages({Instruction(other_.id)}), IsOk());
  EXPECT_EQ(state_.objects.num_objects(), alone + 1) << "the second message's own object";
}

TEST_F(DeliveryTest, WithdrawnMessageIsNotOffered) {
  ASSERT_OK_AND_ASSIGN(const auto ids, grid_->PushMessages({Instruction(node_.id)}));
  grid_->Withdraw(ids);
  EXPECT_FALSE(node_.Offered());
  EXPECT_EQ(state_.objects.num_objects(), 0);
}

TEST_F(DeliveryTest, FinishedRunIsOverForItsNodes) {
  const Metadata instruction = Send(node_);
  grid_.reset();
  EXPECT_EQ(state_.objects.num_objects(), 0);
  EXPECT_THAT(node_.PullObject(instruction.run_id, instruction.message_id),
              StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(node_.Confirm(instruction), StatusIs(absl::StatusCode::kPermissionDenied));
  const PackedReply reply = node_.PackReply(instruction, Content(1));
  EXPECT_THAT(node_.Push(reply), StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(node_.PushObject(instruction.run_id, reply.objects[0]),
              StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_FALSE(node_.Offered());
}

}  // namespace
}  // namespace fedumm::link
