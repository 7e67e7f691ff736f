// What a server reports of its nodes, and how often.
#include "absl/strings/str_cat.h"
#include "link/line_limit.h"
#include "tests/link/link_fixture.h"

namespace fedumm::link {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::IsOk;
using ::testing::Optional;
using ::testing::SizeIs;

class EventTest : public LinkFixture {
 protected:
  // An event of that node.
  static auto Event(const TestNode& node, const std::string& what) {
    return HasSubstr(absl::StrCat("node ", node.id, " ", what));
  }
  // A pull from that address, which is held.
  void PullFrom(const std::string& address) {
    Caller caller = node_.Sign();
    caller.address = address;
    fleet_.PullMessages(caller, node_.Request<flwr::proto::PullMessagesRequest>(),
                        absl::Seconds(10), ++last_ticket_, [](const auto&) {});
  }

  uint64_t last_ticket_ = 0;
};

TEST_F(EventTest, JoiningNodesAreReportedWithKeyAndCount) {
  ASSERT_THAT(node_.Join(), IsOk());
  ASSERT_THAT(other_.Join(), IsOk());
  EXPECT_THAT(events_, ElementsAre(AllOf(Event(node_, "joined (key "), HasSubstr("; 1 online")),
                                   AllOf(Event(other_, "joined (key "), HasSubstr("; 2 online"))));
}

TEST_F(EventTest, ANodeWithoutHeartbeatIsReportedAsLostOnce) {
  ASSERT_THAT(node_.Join(), IsOk());
  ASSERT_THAT(other_.Activate(), ::testing::Not(IsOk()));
  events_.clear();
  {
    MutexLock lock(state_.mu);
    EXPECT_EQ(state_.nodes.NextLeaseEnd(), now_ + absl::Seconds(60));
  }
  now_ += absl::Seconds(59);
  fleet_.Tick();
  EXPECT_THAT(events_, IsEmpty());
  now_ += absl::Seconds(1);
  fleet_.Tick();
  fleet_.Tick();
  EXPECT_THAT(events_, ElementsAre(AllOf(Event(node_, "is lost"), HasSubstr("; 0 online"))));
}

TEST_F(EventTest, AHeartbeatAfterTheLossIsReportedAsBack) {
  ASSERT_THAT(node_.Join(), IsOk());
  now_ += absl::Minutes(2);
  fleet_.Tick();
  events_.clear();
  ASSERT_THAT(node_.Heartbeat(), IsOk());
  ASSERT_THAT(node_.Heartbeat(), IsOk());
  EXPECT_THAT(events_, ElementsAre(AllOf(Event(node_, "is back"), HasSubstr("; 1 online"))));
}

TEST_F(EventTest, ARestartAReturnAndALeaveAreToldApart) {
  ASSERT_THAT(node_.Join(), IsOk());
  events_.clear();
  ASSERT_THAT(node_.Activate(), IsOk());
  now_ += absl::Seconds(1);
  ASSERT_THAT(node_.Deactivate(), IsOk());
  now_ += absl::Seconds(1);
  ASSERT_THAT(node_.Activate(), IsOk());
  ASSERT_THAT(node_.Unregister(), IsOk());
  EXPECT_THAT(events_, ElementsAre(Event(node_, "restarted"), Event(node_, "left"),
                                   Event(node_, "is back"), Event(node_, "unregistered")));
}

TEST_F(EventTest, TwoLiveNodesWithOneKeyAreReportedOnceWithBothAddresses) {
  ASSERT_THAT(node_.Join(), IsOk());
  events_.clear();
  for (int i = 0; i < 10; ++i) {
    PullFrom("10.0.0.1:1111");
    PullFrom("10.0.0.2:2222");
    now_ += absl::Seconds(1);
  }
  ASSERT_THAT(events_, SizeIs(1));
  EXPECT_THAT(events_[0], AllOf(HasSubstr("two live nodes use one key"), HasSubstr("10.0.0.1:1111"),
                                HasSubstr("10.0.0.2:2222"), HasSubstr(absl::StrCat(node_.id))));
}

TEST_F(EventTest, ANodeThatReconnectsOrPullsAgainIsNotTakenForTwo) {
  ASSERT_THAT(node_.Join(), IsOk());
  events_.clear();
  for (int i = 0; i < 30; ++i) {
    PullFrom("10.0.0.1:1111");
    now_ += absl::Seconds(10);
    fleet_.Tick();  // ends the hold
    ASSERT_THAT(node_.Heartbeat(), IsOk());
  }
  PullFrom("10.0.0.1:1111");
  PullFrom("10.0.0.1:1112");
  EXPECT_THAT(events_, IsEmpty());
}

TEST(LineLimitTest, LeavesLinesOutUntilThePeriodIsOverAndCountsThem) {
  LineLimit limit(2, absl::Seconds(10));
  absl::Time now = absl::UnixEpoch();
  EXPECT_THAT(limit.Admit(1, now), Optional(0));
  EXPECT_THAT(limit.Admit(1, now), Optional(0));
  EXPECT_EQ(limit.Admit(1, now), std::nullopt);
  EXPECT_EQ(limit.Admit(1, now + absl::Seconds(9)), std::nullopt);
  EXPECT_THAT(limit.Admit(2, now), Optional(0)) << "another source";
  EXPECT_THAT(limit.Admit(1, now + absl::Seconds(10)), Optional(2));
  EXPECT_THAT(limit.Admit(1, now + absl::Seconds(10)), Optional(0));
}

TEST(LineLimitTest, ManySourcesTakeNoMoreThanSomeMemory) {
  LineLimit limit(1, absl::Seconds(10));
  const absl::Time now = absl::UnixEpoch();
  int num_lines = 0;
  for (uint64_t source = 0; source < 5000; ++source) {
    num_lines += limit.Admit(source, now).has_value() ? 1 : 0;
  }
  EXPECT_EQ(num_lines, 1000);
  EXPECT_THAT(limit.Admit(7000, now + absl::Seconds(10)), Optional(0));
}

}  // namespace
}  // namespace fedumm::link
