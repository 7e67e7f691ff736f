// What users' command lines see and do: runs, logs, nodes.
#include "link/control.h"

#include "tests/link/hosted_fixture.h"

namespace fedumm::link {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::IsOk;
using ::testing::SizeIs;
using testing::StatusIs;

using ControlTest = HostedFixture;

TEST_F(ControlTest, ABundleThatIsNoneStartsNothing) {
  flwr::proto::StartRunRequest request;
  request.mutable_fab()->set_content("PK, but not really");
  EXPECT_THAT(control_.StartRun(request), StatusIs(absl::StatusCode::kFailedPrecondition));
  request.set_app_spec("@flwrlabs/quickstart");
  EXPECT_THAT(control_.StartRun(request), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(ControlTest, OverridesMustNameKeysOfTheAppsConfig) {
  EXPECT_THAT(StartRun({{"no-such-key", "1"}}), StatusIs(absl::StatusCode::kFailedPrecondition));
  ASSERT_FALSE(fab_.config().empty());
  const std::string key = fab_.config().begin()->first;
  ASSERT_OK_AND_ASSIGN(const uint64_t run_id, StartRun({{key, "mine"}}));
  ASSERT_OK_AND_ASSIGN(const auto input, PullInput(Token()));
  EXPECT_EQ(input.run().run_id(), run_id);
  EXPECT_EQ(input.run().override_config().at(key).string(), "mine");
}

TEST_F(ControlTest, PendingRunsStartInTheirOrder) {
  ASSERT_OK_AND_ASSIGN(const uint64_t first, StartRun());
  ASSERT_OK_AND_ASSIGN(const uint64_t second, StartRun());
  ASSERT_OK_AND_ASSIGN(const auto input, PullInput(Token()));
  EXPECT_EQ(input.run().run_id(), first);
  EXPECT_EQ(StatusOf(second), "pending");
  EXPECT_FALSE(Token().empty());
  EXPECT_TRUE(Token().empty()) << "there are no more";
}

TEST_F(ControlTest, ListShowsTheNewestTwentyOrTheOneAskedFor) {
  std::vector<uint64_t> runs;
  for (int i = 0; i < 25; ++i) {
    now_ += absl::Seconds(1);
    runs.push_back(*StartRun());
  }
  ASSERT_OK_AND_ASSIGN(auto list, control_.ListRuns({}));
  EXPECT_THAT(list.run_dict(), SizeIs(20));
  EXPECT_TRUE(list.run_dict().contains(runs[24]));
  EXPECT_FALSE(list.run_dict().contains(runs[4]));
  EXPECT_THAT(list.now(), HasSubstr("+00:00"));
  flwr::proto::ListRunsRequest request;
  request.set_limit(3);
  request.set_skip(23);
  ASSERT_OK_AND_ASSIGN(list, control_.ListRuns(request));
  EXPECT_THAT(list.run_dict(), SizeIs(3)) << "the fixture's own run is the oldest";
  request.Clear();
  request.set_run_id(runs[4]);
  ASSERT_OK_AND_ASSIGN(list, control_.ListRuns(request));
  EXPECT_EQ(list.run_dict().at(runs[4]).federation(), "@none/default");
  request.set_run_id(12345);
  EXPECT_THAT(control_.ListRuns(request), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(ControlTest, ManyRunsThatWaitAreTooMany) {
  for (int i = 0; i < 99; ++i) ASSERT_THAT(StartRun(), IsOk());  // and the fixture's own
  EXPECT_THAT(StartRun(), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(ControlTest, OldFinishedRunsAreForgotten) {
  ASSERT_OK_AND_ASSIGN(const uint64_t first, StartRun());
  ASSERT_THAT(StopRun(first), IsOk());
  for (int i = 0; i < 400; ++i) ASSERT_THAT(StopRun(*StartRun()), IsOk());
  EXPECT_EQ(StatusOf(first), "");
  flwr::proto::ListRunsRequest request;
  request.set_limit(1000);
  ASSERT_OK_AND_ASSIGN(const auto list, control_.ListRuns(request));
  EXPECT_THAT(list.run_dict(), SizeIs(::testing::Le(300)));
}

TEST_F(ControlTest, StoppingIsForRunsThatAreNotOver) {
  EXPECT_THAT(StopRun(12345), StatusIs(absl::StatusCode::kNotFound));
  ASSERT_OK_AND_ASSIGN(const uint64_t run_id, StartRun());
  EXPECT_THAT(StopRun(run_id), IsOk());
  EXPECT_EQ(StatusOf(run_id), "finished:stopped");
  EXPECT_THAT(StopRun(run_id), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_TRUE(Token().empty());
}

TEST_F(ControlTest, ARunOfThisProcessIsListedAndCanBeStopped) {
  ASSERT_THAT(node_.Join(), IsOk());
  EXPECT_EQ(StatusOf(grid_->run_id()), "running");
  ASSERT_THAT(StopRun(grid_->run_id()), IsOk());
  EXPECT_THAT(grid_->PushMessages({Instruction(node_.id)}), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(grid_->PullMessages({"x"}, absl::InfiniteFuture()),
              StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(grid_->WaitForNodes(5, absl::InfiniteFuture()),
              StatusIs(absl::StatusCode::kCancelled));
  auto run = NewRun();
  const uint64_t run_id = run->run_id();
  run.reset();
  EXPECT_EQ(StatusOf(run_id), "finished:completed");
}

TEST_F(ControlTest, LogsComeInOrderAndEndWithTheRun) {
  const auto [run_id, token] = RunningRun();
  int wakes = 0;
  control_.WatchLogs(run_id, 1, [&] { ++wakes; });
  flwr::proto::PushLogsRequest push;
  push.add_logs("one\n");
  push.add_logs("two\n");
  ASSERT_THAT(runtime_.PushLogs(token, push), IsOk());
  EXPECT_EQ(wakes, 1);
  flwr::proto::StreamLogsRequest request;
  request.set_run_id(run_id);
  ASSERT_OK_AND_ASSIGN(auto logs, control_.ReadLogs(request));
  EXPECT_EQ(logs.part.log_output(), "one\ntwo\n");
  EXPECT_FALSE(logs.finished);
  request.set_after_timestamp(logs.part.latest_timestamp());
  ASSERT_OK_AND_ASSIGN(logs, control_.ReadLogs(request));
  EXPECT_THAT(logs.part.log_output(), IsEmpty());
  push.clear_logs();
  push.add_logs("three\n");  // in the same instant
  ASSERT_THAT(runtime_.PushLogs(token, push), IsOk());
  ASSERT_OK_AND_ASSIGN(logs, control_.ReadLogs(request));
  EXPECT_EQ(logs.part.log_output(), "three\n");
  ASSERT_THAT(PushOutput(token, "failed"), IsOk());
  EXPECT_EQ(wakes, 3);
  ASSERT_OK_AND_ASSIGN(logs, control_.ReadLogs(request));
  EXPECT_EQ(logs.part.log_output(), "three\n") << "logs outlive the run";
  EXPECT_TRUE(logs.finished);
  control_.UnwatchLogs(1);
  request.set_run_id(12345);
  EXPECT_THAT(control_.ReadLogs(request), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(ControlTest, OnlyTheEndOfLongLogsIsKept) {
  const auto [run_id, token] = RunningRun();
  flwr::proto::PushLogsRequest push;
  push.add_logs(std::string(700'000, 'a'));
  ASSERT_THAT(runtime_.PushLogs(token, push), IsOk());
  push.set_logs(0, std::string(700'000, 'b'));
  ASSERT_THAT(runtime_.PushLogs(token, push), IsOk());
  std::string text;
  for (int i = 0; i < 1'000'000; ++i) text += "ü";
  push.set_logs(0, text);
  flwr::proto::StreamLogsRequest request;
  request.set_run_id(run_id);
  ASSERT_OK_AND_ASSIGN(auto logs, control_.ReadLogs(request));
  EXPECT_EQ(logs.part.log_output(), std::string(700'000, 'b'));
  ASSERT_THAT(runtime_.PushLogs(token, push), IsOk());
  ASSERT_OK_AND_ASSIGN(logs, control_.ReadLogs(request));
  EXPECT_THAT(logs.part.log_output(), SizeIs(1 << 20)) << "whole characters";
}

TEST_F(ControlTest, NodesAreRegisteredListedAndUnregistered) {
  flwr::proto::RegisterNodeRequest request;
  request.set_public_key("no key");
  EXPECT_THAT(control_.RegisterNode(request), StatusIs(absl::StatusCode::kFailedPrecondition));
  request.set_public_key(node_.Sign().public_key);
  request.set_name("hospital");
  ASSERT_OK_AND_ASSIGN(const auto registered, control_.RegisterNode(request));
  EXPECT_THAT(control_.RegisterNode(request), StatusIs(absl::StatusCode::kAlreadyExists));
  ASSERT_OK_AND_ASSIGN(const auto nodes, control_.ListNodes({}));
  ASSERT_THAT(nodes.nodes_info(), SizeIs(1));
  EXPECT_EQ(nodes.nodes_info(0).node_id(), registered.node_id());
  EXPECT_EQ(nodes.nodes_info(0).name(), "hospital");
  EXPECT_THAT(nodes.nodes_info(0).registered_at(), HasSubstr("T"));
  flwr::proto::UnregisterNodeRequest unregister;
  unregister.set_node_id(registered.node_id());
  EXPECT_THAT(control_.UnregisterNode(unregister), IsOk());
  unregister.set_node_id(42);
  EXPECT_THAT(control_.UnregisterNode(unregister), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace fedumm::link
