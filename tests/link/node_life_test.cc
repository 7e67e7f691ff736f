#include "tests/link/link_fixture.h"

namespace fedumm::link {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::IsOk;
using testing::IsOkAndHolds;
using testing::StatusIs;

using NodeLifeTest = LinkFixture;

TEST_F(NodeLifeTest, KeyKeepsItsNodeId) {
  ASSERT_OK_AND_ASSIGN(const uint64_t id, node_.Register());
  EXPECT_GT(id, 1);
  EXPECT_THAT(node_.Register(), IsOkAndHolds(id));
  EXPECT_THAT(node_.Activate(), IsOkAndHolds(id));
  ASSERT_OK_AND_ASSIGN(const uint64_t other_id, other_.Register());
  EXPECT_NE(id, other_id);
}

TEST_F(NodeLifeTest, RegistrationNamesTheKeyThatSigned) {
  flwr::proto::RegisterNodeFleetRequest request;
  request.set_public_key(other_.Sign().public_key);
  EXPECT_THAT(fleet_.RegisterNode(node_.Sign(), request),
              StatusIs(absl::StatusCode::kUnauthenticated));
}

TEST_F(NodeLifeTest, NodeIsOnlineForTwoIntervals) {
  ASSERT_THAT(node_.Join(), IsOk());
  now_ += absl::Seconds(59);
  EXPECT_THAT(grid_->NodeIds(), ElementsAre(node_.id));
  now_ += absl::Seconds(1);
  EXPECT_THAT(grid_->NodeIds(), IsEmpty());
  EXPECT_THAT(node_.Heartbeat(), IsOk());
  EXPECT_THAT(grid_->NodeIds(), ElementsAre(node_.id));
}

TEST_F(NodeLifeTest, RegisteredNodeIsNotOnline) {
  ASSERT_THAT(node_.Register(), IsOk());
  EXPECT_THAT(grid_->NodeIds(), IsEmpty());
}

TEST_F(NodeLifeTest, HeartbeatIntervalHasBounds) {
  ASSERT_THAT(node_.Register(), IsOk());
  for (const double interval : {9.9, 1800.1, -1.0, std::nan(""), HUGE_VAL}) {
    EXPECT_THAT(node_.Activate(interval), StatusIs(absl::StatusCode::kInvalidArgument)) << interval;
    EXPECT_THAT(node_.Heartbeat(interval), StatusIs(absl::StatusCode::kInvalidArgument))
        << interval;
  }
  EXPECT_THAT(node_.Activate(10), IsOk());
  EXPECT_THAT(node_.Heartbeat(1800), IsOk());
}

TEST_F(NodeLifeTest, F24_OnlineNodeIsTakenOver) {
  ASSERT_THAT(node_.Join(), IsOk());
  int answers = 0;
  node_.PullLater(absl::Seconds(10), 1, [&](const auto& response) {
    EXPECT_THAT(response, IsOk());
    ++answers;
  });
  EXPECT_THAT(node_.Activate(), IsOkAndHolds(node_.id));
  EXPECT_EQ(answers, 1);
}

TEST_F(NodeLifeTest, DeactivatedNodeIsOfflineAndComesBack) {
  ASSERT_THAT(node_.Join(), IsOk());
  EXPECT_THAT(node_.Deactivate(), IsOk());
  EXPECT_THAT(grid_->NodeIds(), IsEmpty());
  EXPECT_THAT(node_.Activate(), IsOkAndHolds(node_.id));
  EXPECT_THAT(grid_->NodeIds(), ElementsAre(node_.id));
}

TEST_F(NodeLifeTest, UnregisteredKeyIsBurned) {
  ASSERT_THAT(node_.Join(), IsOk());
  EXPECT_THAT(node_.Unregister(), IsOk());
  EXPECT_THAT(node_.Register(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(node_.Activate(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(node_.Heartbeat(), StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_THAT(node_.Pull(), StatusIs(absl::StatusCode::kUnauthenticated));
}

TEST_F(NodeLifeTest, F29_UnknownKeyIsUnauthenticated) {
  EXPECT_THAT(node_.Heartbeat(), StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_THAT(node_.Pull(), StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_THAT(node_.Activate(), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(NodeLifeTest, F29_KeyActsForItsOwnNodeOnly) {
  ASSERT_THAT(node_.Join(), IsOk());
  ASSERT_THAT(other_.Join(), IsOk());
  std::swap(node_.id, other_.id);
  EXPECT_THAT(node_.Heartbeat(), StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_THAT(node_.Pull(), StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_THAT(node_.Unregister(), StatusIs(absl::StatusCode::kUnauthenticated));
}

TEST_F(NodeLifeTest, RegistryIsBounded) {
  NodeRegistry registry({.max_nodes = 2});
  for (const char* key : {"a", "b"}) {
    EXPECT_THAT(registry.Register(key, now_), IsOk());
    EXPECT_THAT(registry.Activate(key, 30, now_), IsOk());
  }
  EXPECT_THAT(registry.Register("c", now_), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(registry.Register("a", now_), IsOk());
}

TEST_F(NodeLifeTest, RunDescribesItself) {
  ASSERT_THAT(node_.Join(), IsOk());
  RunOptions options{.fab_id = "me/app", .fab_version = "2.0.0"};
  options.run_config.Set("lr", 0.5);
  uint64_t run_id = 0;
  {
    MutexLock lock(state_.mu);
    ASSERT_OK_AND_ASSIGN(run_id, state_.runs.Create(options, now_));
  }
  auto request = node_.Request<flwr::proto::GetRunRequest>();
  request.set_run_id(run_id);
  ASSERT_OK_AND_ASSIGN(const flwr::proto::GetRunResponse response,
                       fleet_.GetRun(node_.Sign(), request));
  const flwr::proto::Run& run = response.run();
  EXPECT_EQ(run.run_id(), run_id);
  EXPECT_EQ(run.series_id(), run_id);
  EXPECT_EQ(run.fab_id(), "me/app");
  EXPECT_EQ(run.fab_version(), "2.0.0");
  EXPECT_EQ(run.status().status(), "running");
  EXPECT_EQ(run.override_config().at("lr").double_(), 0.5);
}

TEST_F(NodeLifeTest, RunConfigHoldsScalarsOnly) {
  RunOptions options;
  options.run_config.Set("list", std::vector<double>{1, 2});
  MutexLock lock(state_.mu);
  EXPECT_THAT(state_.runs.Create(options, now_), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(NodeLifeTest, UnknownRunAndMissingAppBundleArePermissionDenied) {
  ASSERT_THAT(node_.Join(), IsOk());
  auto get_run = node_.Request<flwr::proto::GetRunRequest>();
  get_run.set_run_id(7);
  EXPECT_THAT(fleet_.GetRun(node_.Sign(), get_run),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("7")));
  auto get_fab = node_.Request<flwr::proto::GetFabRequest>();
  get_fab.set_run_id(grid_->run_id());
  EXPECT_THAT(fleet_.GetFab(node_.Sign(), get_fab), StatusIs(absl::StatusCode::kPermissionDenied));
}

TEST_F(NodeLifeTest, StoppedServerAsksToTryAgain) {
  ASSERT_THAT(node_.Join(), IsOk());
  fleet_.Stop();
  EXPECT_THAT(node_.Heartbeat(), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(node_.Register(), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(node_.Pull(), StatusIs(absl::StatusCode::kUnavailable));
}

}  // namespace
}  // namespace fedumm::link
