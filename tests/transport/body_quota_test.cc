#include "transport/body_quota.h"

#include <gmock/gmock.h>

#include <memory>
#include <string>

namespace fedumm::transport {
namespace {

using std::chrono::seconds;

class BodyQuotaTest : public ::testing::Test {
 protected:
  // Whether the body has its room, at once or by now.
  struct Body {
    bool has_room = false;
  };
  void Take(Body& body, int64_t num_bytes, const std::string& peer = "") {
    body.has_room = quota_.Take(&body, num_bytes, peer, now_, [&body] { body.has_room = true; });
  }
  void GiveBack(Body& body, int64_t num_bytes, const std::string& peer = "") {
    quota_.Received(&body);
    quota_.Give(num_bytes, peer);
  }

  BodyQuota quota_{400};
  BodyQuota::Clock::time_point now_ = BodyQuota::Clock::now();
  Body a_, b_, c_, d_;
};

TEST_F(BodyQuotaTest, ABodyWaitsUntilTheBudgetAdmitsIt) {
  Take(a_, 300);
  Take(b_, 200);
  Take(c_, 50);
  EXPECT_TRUE(a_.has_room);
  EXPECT_FALSE(b_.has_room);
  EXPECT_FALSE(c_.has_room) << "or a large one would wait for ever";
  GiveBack(a_, 300);
  EXPECT_TRUE(b_.has_room);
  EXPECT_TRUE(c_.has_room);
}

TEST_F(BodyQuotaTest, OnePeerHasAQuarterAndDoesNotDelayOthers) {
  Take(a_, 80, "10.0.0.1");
  Take(b_, 30, "10.0.0.1");
  Take(c_, 30, "10.0.0.2");
  EXPECT_TRUE(a_.has_room);
  EXPECT_FALSE(b_.has_room);
  EXPECT_TRUE(c_.has_room);
  GiveBack(a_, 80, "10.0.0.1");
  EXPECT_TRUE(b_.has_room);
}

TEST_F(BodyQuotaTest, ABodyThatIsLargerThanAllGetsAll) {
  Take(a_, 10, "10.0.0.1");
  Take(b_, 1000, "10.0.0.2");
  EXPECT_FALSE(b_.has_room);
  GiveBack(a_, 10, "10.0.0.1");
  EXPECT_TRUE(b_.has_room);
}

TEST_F(BodyQuotaTest, AWithdrawnBodyDoesNotDelayOthers) {
  Take(a_, 300);
  Take(b_, 200);
  Take(c_, 100);
  quota_.Withdraw(&b_);
  EXPECT_TRUE(c_.has_room);
}

TEST_F(BodyQuotaTest, TheSlowestMakesWayWhileOthersWait) {
  Take(a_, 200);
  Take(b_, 200);
  now_ += seconds(10);
  EXPECT_FALSE(quota_.IsCancelled(&a_, 100));
  EXPECT_FALSE(quota_.IsCancelled(&b_, 20));
  quota_.CancelSlowestBody(now_);
  EXPECT_FALSE(quota_.IsCancelled(&b_, 20)) << "nobody waits";
  Take(c_, 100);
  now_ += seconds(2);
  quota_.CancelSlowestBody(now_);
  EXPECT_FALSE(quota_.IsCancelled(&b_, 20)) << "nobody has waited long";
  now_ += seconds(1);
  quota_.CancelSlowestBody(now_);
  EXPECT_FALSE(quota_.IsCancelled(&a_, 100));
  EXPECT_TRUE(quota_.IsCancelled(&b_, 20));
  now_ += seconds(1);
  quota_.CancelSlowestBody(now_);
  EXPECT_FALSE(quota_.IsCancelled(&a_, 100)) << "one at a time";
  GiveBack(b_, 200);
  EXPECT_TRUE(c_.has_room);
}

TEST_F(BodyQuotaTest, FastAndFinishedBodiesStay) {
  Take(a_, 200);
  Take(b_, 200);
  Take(c_, 100);
  quota_.Received(&b_);
  now_ += seconds(5);
  EXPECT_FALSE(quota_.IsCancelled(&a_, int64_t{6} << 20));
  quota_.CancelSlowestBody(now_);
  EXPECT_FALSE(quota_.IsCancelled(&a_, int64_t{6} << 20));
  EXPECT_FALSE(quota_.IsCancelled(&b_, 0));
}

TEST_F(BodyQuotaTest, ABodyThatWaitsForItsShareCancelsBodiesOfItsPeerOnly) {
  Take(a_, 50, "10.0.0.1");
  Take(b_, 80, "10.0.0.2");
  Take(c_, 80, "10.0.0.2");
  now_ += seconds(4);
  EXPECT_FALSE(quota_.IsCancelled(&a_, 1));
  EXPECT_FALSE(quota_.IsCancelled(&b_, 40));
  quota_.CancelSlowestBody(now_);
  EXPECT_FALSE(quota_.IsCancelled(&a_, 1));
  EXPECT_TRUE(quota_.IsCancelled(&b_, 40));
}

TEST_F(BodyQuotaTest, AReservationGivesBackWhatIsLeft) {
  const auto quota = std::make_shared<BodyQuota>(100);
  ASSERT_TRUE(quota->Take(&a_, 100, "", now_, nullptr));
  {
    Reservation reservation(quota, &a_, 100, "");
    reservation.Received(40);
    ASSERT_TRUE(quota->Take(&b_, 60, "", now_, nullptr));
    const Reservation moved = std::move(reservation);
  }
  EXPECT_TRUE(quota->Take(&c_, 40, "", now_, nullptr));
}

}  // namespace
}  // namespace fedumm::transport
