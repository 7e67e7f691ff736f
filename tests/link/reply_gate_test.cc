#include "link/reply_gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "link/fleet.h"
#include "link/link_state.h"
#include "link/run_grid.h"
#include "tests/link/test_node.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::link {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class ReplyGateTest : public ::testing::Test {
 protected:
  // Announces a reply; those that come later are in `came_` once Open was called.
  bool Announce(const std::string& id, int64_t num_bytes) {
    if (gate_.Enter(id, num_bytes, now_)) return true;
    gate_.Hold(id, num_bytes, now_, [this, id](const absl::Status& status) {
      (status.ok() ? came_ : sent_away_).push_back(id);
    });
    return false;
  }
  void Open() {
    for (const auto& go : gate_.TakeReady(now_)) go();
  }

  absl::Time now_ = absl::FromUnixSeconds(1'000);
  ReplyGate gate_{
      {.max_bytes = 100, .longest_hold = absl::Seconds(15), .patience = absl::Seconds(10)}};
  std::vector<std::string> came_;
  std::vector<std::string> sent_away_;
};

TEST_F(ReplyGateTest, AsManyComeAsThereIsRoomForAndTheOthersInTheirOrder) {
  EXPECT_TRUE(Announce("a", 60));
  EXPECT_TRUE(Announce("b", 40));
  EXPECT_FALSE(Announce("c", 50));
  EXPECT_FALSE(Announce("d", 1));  // would fit, but does not overtake
  Open();
  EXPECT_THAT(came_, IsEmpty());
  gate_.Leave("b");
  Open();
  EXPECT_THAT(came_, IsEmpty());
  gate_.Leave("a");
  Open();
  EXPECT_THAT(came_, ElementsAre("c", "d"));
}

TEST_F(ReplyGateTest, OneThatIsLargerThanAllRoomComesAlone) {
  EXPECT_TRUE(Announce("a", 1'000));
  EXPECT_FALSE(Announce("b", 1'000));
  gate_.Leave("a");
  Open();
  EXPECT_THAT(came_, ElementsAre("b"));
}

TEST_F(ReplyGateTest, OneThatIsInsideMayBeAnnouncedAgain) {
  EXPECT_TRUE(Announce("a", 100));
  EXPECT_FALSE(Announce("b", 100));
  EXPECT_TRUE(Announce("a", 100));
  gate_.Leave("a");
  Open();
  EXPECT_THAT(came_, ElementsAre("b"));
}

TEST_F(ReplyGateTest, AReplyThatNeverLeavesKeepsOthersOutForItsPatienceOnly) {
  EXPECT_TRUE(Announce("a", 100));
  EXPECT_FALSE(Announce("b", 100));
  EXPECT_EQ(gate_.next_due(), now_ + absl::Seconds(10));
  now_ += absl::Seconds(10);
  Open();
  EXPECT_THAT(came_, ElementsAre("b"));
}

TEST_F(ReplyGateTest, AReplyIsAdmittedAfterTheLongestHoldIfNoneWasUsedUp) {
  EXPECT_TRUE(Announce("a", 100));
  for (const char* id : {"b", "c", "d"}) EXPECT_FALSE(Announce(id, 100));
  now_ += absl::Seconds(10);
  Open();
  EXPECT_THAT(came_, ElementsAre("b"));
  EXPECT_EQ(gate_.next_due(), now_ + absl::Seconds(5));
  now_ += absl::Seconds(5);
  Open();
  EXPECT_THAT(came_, ElementsAre("b", "c", "d"));
  EXPECT_THAT(sent_away_, IsEmpty());
  EXPECT_EQ(gate_.next_due(), absl::InfiniteFuture());
}

TEST_F(ReplyGateTest, AReplyThatWaitedWhileOthersWereAdmittedIsAskedToTryAgain) {
  EXPECT_TRUE(Announce("a", 100));
  for (const char* id : {"b", "c", "d"}) EXPECT_FALSE(Announce(id, 100));
  now_ += absl::Seconds(9);
  gate_.Leave("a");
  Open();
  now_ += absl::Seconds(6);
  Open();
  EXPECT_THAT(came_, ElementsAre("b"));
  EXPECT_THAT(sent_away_, ElementsAre("c", "d"));
}

// A server with room for one reply, one run and two nodes.
class GatedServerTest : public ::testing::Test {
 protected:
  using Answer = std::optional<absl::StatusOr<flwr::proto::PushMessagesResponse>>;

  void SetUp() override {
    ASSERT_THAT(first_.Join(), testing::IsOk());
    ASSERT_THAT(second_.Join(), testing::IsOk());
    {
      MutexLock lock(state_.mu);
      run_ = std::make_unique<RunGrid>(state_, *state_.runs.Create({}, now_));
    }
    std::vector<Message> instructions;
    for (const TestNode* node : {&first_, &second_}) {
      Message message;
      message.metadata.dst_node_id = node->id;
      message.metadata.message_type = "train";
      message.content = RecordDict{{"config", ConfigRecord{{"server-round", int64_t{1}}}}};
      instructions.push_back(std::move(message));
    }
    ids_ = *run_->PushMessages(std::move(instructions));
  }

  PackedReply Reply(TestNode& node, bool with_arrays = true) {
    const auto pulled = node.Pull();
    RecordDict content{
        {"metrics", MetricRecord{{"num-examples", static_cast<int64_t>(node.id >> 1)}}}};
    if (with_arrays) {
      content.Set("arrays", ArrayRecord{{"w", Array::FromDoubles({1}, {{double(node.id)}})}});
    }
    return node.PackReply(*wire::MetadataFromProto(pulled->messages_list(0).metadata(), {}),
                          std::move(content));
  }
  void Announce(TestNode& node, const PackedReply& reply, Answer& answer) {
    fleet_.AnnounceReply(node.Sign(), reply.request,
                         [&answer](auto response) { answer = std::move(response); });
  }
  std::vector<Message> TakeReplies() { return *run_->PullMessages(ids_, absl::InfinitePast()); }

  absl::Time now_ = absl::FromUnixSeconds(1'800'000'000);
  LinkState state_{{.replies = {.max_bytes = 1},
                    .clock = [this] { return now_; },
                    .timer = [this] { return now_; }}};
  Fleet fleet_{state_};
  TestNode first_{fleet_, now_};
  TestNode second_{fleet_, now_};
  std::unique_ptr<Grid> run_;
  std::vector<std::string> ids_;
};

TEST_F(GatedServerTest, ASecondReplyComesOnceTheApplicationHasUsedTheFirst) {
  Answer first, second;
  const PackedReply reply = Reply(first_);
  Announce(first_, reply, first);
  ASSERT_TRUE(first.has_value());
  Announce(second_, Reply(second_), second);
  ASSERT_THAT(first_.PushAll(reply), testing::IsOk());
  EXPECT_FALSE(second.has_value());
  ASSERT_THAT(TakeReplies(), ::testing::SizeIs(1));  // and works on it
  EXPECT_FALSE(second.has_value());
  EXPECT_THAT(TakeReplies(), IsEmpty());  // and wants more
  ASSERT_TRUE(second.has_value());
  ASSERT_THAT(second->status(), testing::IsOk());
  EXPECT_GT((*second)->objects_to_push_size(), 0);
}

TEST_F(GatedServerTest, ASecondReplyComesAfterAWhileThoughTheFirstDoesNot) {
  Answer first, second;
  Announce(first_, Reply(first_), first);
  Announce(second_, Reply(second_), second);
  EXPECT_FALSE(second.has_value());
  now_ += absl::Seconds(20);
  fleet_.Tick();
  ASSERT_TRUE(second.has_value());
  EXPECT_THAT(second->status(), testing::IsOk());
}

TEST_F(GatedServerTest, AReplyThatIsWithdrawnMakesRoom) {
  Answer first, second;
  Announce(first_, Reply(first_), first);
  Announce(second_, Reply(second_), second);
  run_->Withdraw({ids_[0]});
  ASSERT_TRUE(second.has_value());
  EXPECT_THAT(second->status(), testing::IsOk());
}

TEST_F(GatedServerTest, ARefusedReplyTakesNoRoom) {
  Answer first, second;
  PackedReply reply = Reply(first_);
  reply.request.mutable_messages_list(0)->mutable_metadata()->set_ttl(-1);
  Announce(first_, reply, first);
  ASSERT_TRUE(first.has_value());
  Announce(second_, Reply(second_), second);
  EXPECT_TRUE(second.has_value());
}

TEST_F(GatedServerTest, StopAnswersHeldAnnouncements) {
  Answer first, second;
  Announce(first_, Reply(first_), first);
  Announce(second_, Reply(second_), second);
  fleet_.Stop();
  ASSERT_TRUE(second.has_value());
  EXPECT_THAT(second->status(), testing::StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(GatedServerTest, AReplyWithoutArraysNeverWaits) {
  Answer first, second;
  Announce(first_, Reply(first_), first);
  ASSERT_TRUE(first.has_value());
  Announce(second_, Reply(second_, /*with_arrays=*/false), second);
  ASSERT_TRUE(second.has_value());
  EXPECT_THAT(second->status(), testing::IsOk());
}

TEST_F(GatedServerTest, ARepeatedAnnouncementKeepsItsPlaceAndThePreviousCallIsAnswered) {
  Answer first, second, again;
  const PackedReply reply = Reply(first_);
  Announce(first_, reply, first);
  const PackedReply held = Reply(second_);
  Announce(second_, held, second);
  Announce(second_, held, again);
  ASSERT_TRUE(second.has_value());
  EXPECT_THAT(second->status(), testing::StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_FALSE(again.has_value());
  ASSERT_THAT(first_.PushAll(reply), testing::IsOk());
  ASSERT_THAT(TakeReplies(), ::testing::SizeIs(1));
  EXPECT_THAT(TakeReplies(), IsEmpty());
  ASSERT_TRUE(again.has_value());
  EXPECT_THAT(again->status(), testing::IsOk());
}

TEST_F(GatedServerTest, AnAnsweredInstructionHoldsNoPlace) {
  Answer first, repeated, second;
  const PackedReply reply = Reply(first_);
  Announce(first_, reply, first);
  ASSERT_THAT(first_.PushAll(reply), testing::IsOk());
  ASSERT_THAT(TakeReplies(), ::testing::SizeIs(1));
  EXPECT_THAT(TakeReplies(), IsEmpty());
  Announce(first_, reply, repeated);
  ASSERT_TRUE(repeated.has_value());
  Announce(second_, Reply(second_), second);
  EXPECT_TRUE(second.has_value());
}

}  // namespace
}  // namespace fedumm::link
