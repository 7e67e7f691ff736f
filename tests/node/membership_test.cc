#include "node/membership.h"

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "tests/node/fake_fleet.h"
#include "tests/testing/status_matchers.h"

namespace fedumm {
namespace {

using ::fedumm::testing::IsOkAndHolds;
using ::fedumm::testing::StatusIs;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// What Flower's servers answer, whatever the reason.
const absl::Status& KeyInUse() {
  static const absl::Status status = absl::FailedPreconditionError("key in use");
  return status;
}
const absl::Status& NotActivated() {
  static const absl::Status status = absl::FailedPreconditionError("could not be activated");
  return status;
}

class MembershipTest : public ::testing::Test {
 protected:
  Membership New(bool keeps_key) {
    return Membership({.public_key_pem = "PEM", .keeps_key = keeps_key, .on_event = [this](auto e) {
                         events_.push_back(e);
                       }});
  }
  absl::StatusOr<uint64_t> Join(Membership& membership) { return membership.Join(caller_); }

  FakeFleet fleet_;
  absl::Time now_ = absl::FromUnixSeconds(1'800'000'000);
  std::stop_source stop_;
  NodeEnvironment environment_{.clock = [this] { return now_; },
                               .wait =
                                   [this](absl::Duration duration, const std::stop_token& stop) {
                                     now_ += duration;
                                     return !stop.stop_requested();
                                   }};
  Caller caller_{fleet_, environment_, {.server = "here:1", .cancel = stop_.get_token()}};
  std::vector<std::string> events_;
};

TEST_F(MembershipTest, FreshKeyIsUnregisteredInTheEnd) {
  Membership membership = New(/*keeps_key=*/false);
  EXPECT_THAT(Join(membership), IsOkAndHolds(FakeFleet::kNodeId));
  membership.Leave(caller_);
  EXPECT_THAT(fleet_.calls(), ::testing::ElementsAre("RegisterNode", "ActivateNode",
                                                     "DeactivateNode", "UnregisterNode"));
}

TEST_F(MembershipTest, KeptKeyIsNeverUnregistered) {
  Membership membership = New(/*keeps_key=*/true);
  EXPECT_THAT(Join(membership), IsOkAndHolds(FakeFleet::kNodeId));
  membership.Leave(caller_);
  EXPECT_EQ(fleet_.calls().back(), "DeactivateNode");
  EXPECT_THAT(Join(membership), IsOkAndHolds(FakeFleet::kNodeId));
}

TEST_F(MembershipTest, KeyThatIsRegisteredGoesOnToActivation) {
  for (const char* const refusal : {"key in use", "registration is disabled"}) {
    fleet_.Fail("RegisterNode", {absl::FailedPreconditionError(refusal)});
    Membership membership = New(/*keeps_key=*/true);
    EXPECT_THAT(Join(membership), IsOkAndHolds(FakeFleet::kNodeId));
  }
  EXPECT_THAT(events_, IsEmpty());
}

TEST_F(MembershipTest, F24_KeptKeyThatIsOnlineStillWaitsForItsTurn) {
  fleet_.Fail("RegisterNode", std::vector<absl::Status>(100, KeyInUse()));
  fleet_.Fail("ActivateNode", std::vector<absl::Status>(8, NotActivated()));
  Membership membership = New(/*keeps_key=*/true);
  const absl::Time started = now_;
  EXPECT_THAT(Join(membership), IsOkAndHolds(FakeFleet::kNodeId));
  EXPECT_GT(now_, started);
  EXPECT_EQ(events_.size(), 8);
  EXPECT_THAT(events_, Contains(HasSubstr("online still, trying on for 75 s: key in use")));
}

TEST_F(MembershipTest, F24_KeptKeyGivesUpWhenNoServerCanTakeItForOnlineAnyMore) {
  fleet_.Fail("RegisterNode", std::vector<absl::Status>(1000, KeyInUse()));
  fleet_.Fail("ActivateNode", std::vector<absl::Status>(1000, NotActivated()));
  Membership membership = New(/*keeps_key=*/true);
  const absl::Time started = now_;
  EXPECT_THAT(Join(membership), StatusIs(absl::StatusCode::kFailedPrecondition, "key in use"));
  EXPECT_EQ(now_, started + absl::Seconds(75));
  EXPECT_LT(fleet_.num_calls("ActivateNode"), 60);
}

TEST_F(MembershipTest, RefusalOfAFreshKeyIsFinal) {
  fleet_.Fail("RegisterNode", {absl::FailedPreconditionError("registration is disabled")});
  fleet_.Fail("ActivateNode", {NotActivated()});
  Membership membership = New(/*keeps_key=*/false);
  EXPECT_THAT(Join(membership),
              StatusIs(absl::StatusCode::kFailedPrecondition, "registration is disabled"));
  EXPECT_EQ(fleet_.num_calls("ActivateNode"), 1);
}

TEST_F(MembershipTest, F8_KeptKeyOfAWrongClockIsRefusedAtOnce) {
  fleet_.Fail("RegisterNode", {absl::UnauthenticatedError("the clocks differ")});
  Membership membership = New(/*keeps_key=*/true);
  EXPECT_THAT(Join(membership), StatusIs(absl::StatusCode::kUnauthenticated, "the clocks differ"));
  EXPECT_THAT(events_, IsEmpty());
}

TEST_F(MembershipTest, ActivationThatWasStoppedOnItsWayIsTakenBack) {
  Caller uncancelled(fleet_, environment_, {.server = "here:1"});
  fleet_.Fail("ActivateNode", {absl::CancelledError("stopped")});
  environment_.wait = [](absl::Duration, const std::stop_token&) { return false; };
  Membership membership = New(/*keeps_key=*/true);
  EXPECT_THAT(membership.Join(uncancelled), StatusIs(absl::StatusCode::kCancelled));
  membership.Leave(uncancelled);
  EXPECT_EQ(fleet_.calls().back(), "DeactivateNode");
}

TEST_F(MembershipTest, StopEndsTheWait) {
  fleet_.Fail("RegisterNode", std::vector<absl::Status>(100, KeyInUse()));
  fleet_.Fail("ActivateNode", std::vector<absl::Status>(100, NotActivated()));
  environment_.wait = [this](absl::Duration, const std::stop_token&) {
    stop_.request_stop();
    return false;
  };
  Membership membership = New(/*keeps_key=*/true);
  EXPECT_THAT(Join(membership), StatusIs(absl::StatusCode::kCancelled));
}

}  // namespace
}  // namespace fedumm
