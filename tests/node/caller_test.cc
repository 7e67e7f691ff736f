#include "node/caller.h"

#include <gtest/gtest.h>

#include "tests/node/fake_fleet.h"
#include "tests/testing/status_matchers.h"

namespace fedumm {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::HasSubstr;

class CallerTest : public ::testing::Test {
 protected:
  absl::Status Activate(Caller::Options options) {
    options.server = "here:1";
    Caller caller(fleet_, environment_, std::move(options));
    flwr::proto::ActivateNodeRequest request;
    request.set_public_key("PEM");
    request.set_heartbeat_interval(30);
    return caller.Call(&FleetClient::ActivateNode, request).status();
  }

  FakeFleet fleet_;
  absl::Time now_ = absl::FromUnixSeconds(1'800'000'000);
  NodeEnvironment environment_{.clock = [this] { return now_; },
                               .wait =
                                   [this](absl::Duration duration, const std::stop_token& stop) {
                                     now_ += duration;
                                     return !stop.stop_requested();
                                   }};
  const absl::Status unavailable_ = absl::UnavailableError("no route");
};

TEST(Backoff, DoublesFromATenthToTwentySeconds) {
  Backoff backoff(/*seed=*/1);
  absl::Duration cap = absl::Milliseconds(100);
  for (int i = 0; i < 100; ++i) {
    const absl::Duration delay = backoff.Next();
    EXPECT_GE(delay, absl::ZeroDuration());
    EXPECT_LT(delay, cap);
    cap = std::min(2 * cap, absl::Seconds(20));
  }
  backoff.Reset();
  EXPECT_LT(backoff.Next(), absl::Milliseconds(100));
}

TEST_F(CallerTest, TriesAgainUntilTheServerAnswers) {
  fleet_.Fail("ActivateNode", {unavailable_, absl::DeadlineExceededError("slow"),
                               absl::CancelledError("server is going down")});
  std::vector<std::string> events;
  EXPECT_THAT(Activate({.on_event = [&](const std::string& event) { events.push_back(event); }}),
              IsOk());
  EXPECT_EQ(fleet_.num_calls("ActivateNode"), 4);
  ASSERT_FALSE(events.empty());
  EXPECT_THAT(events.front(), HasSubstr("server unreachable at here:1, retrying in "));
  EXPECT_THAT(events.back(), HasSubstr("server reached at here:1"));
}

TEST_F(CallerTest, DoesNotRepeatARefusal) {
  fleet_.Fail("ActivateNode", {absl::FailedPreconditionError("still online")});
  EXPECT_THAT(Activate({}), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(fleet_.num_calls("ActivateNode"), 1);
}

TEST_F(CallerTest, GivesUpAfterMaxRetries) {
  fleet_.Fail("ActivateNode", std::vector<absl::Status>(10, unavailable_));
  EXPECT_THAT(Activate({.limits = {.max_retries = 2}}),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("2 retries: no route")));
  EXPECT_EQ(fleet_.num_calls("ActivateNode"), 3);
}

TEST_F(CallerTest, GivesUpAfterMaxWaitTime) {
  fleet_.Fail("ActivateNode", std::vector<absl::Status>(1000, unavailable_));
  const absl::Time started = now_;
  EXPECT_THAT(Activate({.limits = {.max_wait_time = absl::Seconds(60)}}),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("1m")));
  EXPECT_LE(now_ - started, absl::Seconds(60));
  EXPECT_GE(now_ - started, absl::Seconds(30));
}

TEST_F(CallerTest, EndsAtItsDeadline) {
  fleet_.Fail("ActivateNode", std::vector<absl::Status>(1000, unavailable_));
  const absl::Time deadline = now_ + absl::Seconds(1);
  EXPECT_THAT(Activate({.deadline = deadline}), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(now_, deadline);
}

TEST_F(CallerTest, EndsWhenItIsStopped) {
  std::stop_source stop;
  stop.request_stop();
  EXPECT_THAT(Activate({.cancel = stop.get_token()}), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(fleet_.num_calls("ActivateNode"), 0);
}

}  // namespace
}  // namespace fedumm
