#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <stdexcept>
#include <thread>

#include "absl/strings/match.h"
#include "base/file.h"
#include "base/mutex.h"
#include "base/sha256.h"
#include "node/node_loop.h"
#include "tests/node/fake_fleet.h"
#include "tests/testing/status_matchers.h"
#include "wire/proto.h"

namespace fedumm {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Message Train(std::vector<float> values = {1, 2, 3}, int64_t round = 1) {
  const auto size = static_cast<int64_t>(values.size());
  return {.content = RecordDict{{"arrays", ArrayRecord{{"w", Array::FromFloats({size}, values)}}},
                                {"config", ConfigRecord{{"server-round", round}}}}};
}

// A node on a fake fleet. Waits cost no time, and move the clock.
class NodeTest : public ::testing::Test {
 protected:
  NodeTest() {
    app_.OnTrain([](const Message& message, Context& context) -> absl::StatusOr<RecordDict> {
      const double count = NumberOr(context.state.FindMetrics("count") == nullptr
                                        ? MetricRecord()
                                        : *context.state.FindMetrics("count"),
                                    "n", 0) +
                           1;
      context.state.Set("count", MetricRecord{{"n", count}});
      RecordDict reply = *message.content;
      reply.Set("metrics", MetricRecord{{"num-examples", int64_t{10}}, {"count", count}});
      return reply;
    });
    options_.on_event = [this](const std::string& event) {
      const MutexLock lock(mutex_);
      events_.push_back(event);
    };
  }
  ~NodeTest() override {
    if (node_.joinable()) Stop().IgnoreError();
  }

  void Start() {
    node_ = std::thread([this] {
      result_ = RunNode(app_, fleet_, "PEM", options_, environment_, stop_.get_token());
    });
  }
  absl::Status Stop() {
    stop_.request_stop();
    return Join();
  }
  absl::Status Join() {
    node_.join();
    return result_;
  }
  std::vector<std::string> events() {
    const MutexLock lock(mutex_);
    return events_;
  }
  // Messages go on being answered.
  void ExpectAlive() {
    fleet_.Offer(Train({9}));
    EXPECT_TRUE(fleet_.TakeReply().content.has_value());
  }

  FakeFleet fleet_;
  ClientApp app_;
  SuperNodeOptions options_;
  std::atomic<int64_t> skipped_ns_ = 0;
  NodeEnvironment environment_{
      .clock = [this] { return absl::Now() + absl::Nanoseconds(skipped_ns_.load()); },
      .wait =
          [this](absl::Duration duration, const std::stop_token& stop) {
            skipped_ns_ += absl::ToInt64Nanoseconds(duration);
            return !stop.stop_requested();
          }};
  std::stop_source stop_;

 private:
  std::thread node_;
  absl::Status result_;
  Mutex mutex_;
  std::vector<std::string> events_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(NodeTest, AnswersAnInstructionAndLeaves) {
  const wire::DeflatedMessage instruction = fleet_.Offer(Train());
  Start();
  const Message reply = fleet_.TakeReply();
  EXPECT_EQ(reply.metadata.reply_to_message_id, instruction.message_id);
  EXPECT_EQ(reply.metadata.src_node_id, FakeFleet::kNodeId);
  EXPECT_EQ(reply.metadata.dst_node_id, kSuperLinkNodeId);
  EXPECT_EQ(reply.metadata.run_id, FakeFleet::kRunId);
  EXPECT_EQ(reply.metadata.message_type, "train");
  EXPECT_LE(reply.metadata.ttl, kDefaultTtlSeconds);
  EXPECT_GT(reply.metadata.ttl, kDefaultTtlSeconds - 60);
  ASSERT_TRUE(reply.content.has_value());
  EXPECT_EQ(NumberOr(*reply.content->FindMetrics("metrics"), "num-examples", 0), 10);
  // The arrays and the config went back as they came: only metrics, RecordDict and Message are new.
  EXPECT_EQ(fleet_.num_pushed_objects(), 3);
  EXPECT_THAT(Stop(), IsOk());

  std::vector<std::string> expected = {"RegisterNode", "ActivateNode", "PullMessages", "GetRun"};
  expected.insert(expected.end(), instruction.objects.size(), "PullObject");
  for (const char* rpc : {"ConfirmMessageReceived", "PushMessages", "PushObject", "PushObject",
                          "PushObject", "PullMessages", "DeactivateNode", "UnregisterNode"}) {
    expected.emplace_back(rpc);
  }
  std::vector<std::string> calls = fleet_.calls();
  if (fleet_.num_calls("PullMessages") < 2) {  // stopped before it asked again
    expected.erase(std::find(expected.rbegin(), expected.rend(), "PullMessages").base() - 1);
  }
  EXPECT_EQ(calls, expected);
  EXPECT_THAT(events(), Contains(HasSubstr("registered as node 4242")));
  EXPECT_THAT(events(), Contains(HasSubstr("round message: train of run 7, round 1")));
}

TEST_F(NodeTest, PullsOnlyObjectsThatItDoesNotHold) {
  const wire::DeflatedMessage first = fleet_.Offer(Train({1, 2, 3}, 1));
  Start();
  fleet_.TakeReply();
  fleet_.Offer(Train({1, 2, 3}, 2));
  fleet_.TakeReply();
  // Config, RecordDict and Message of the second are new; the ArrayRecord, its array and chunk are
  // here.
  EXPECT_EQ(fleet_.num_calls("PullObject"), static_cast<int>(first.objects.size()) + 3);
}

// The settings that an app is called with, when the run has a bundle.
class RunConfigTest : public NodeTest {
 protected:
  RunConfigTest() {
    app_.OnQuery([](const Message&, Context& context) -> absl::StatusOr<RecordDict> {
      return RecordDict{{"config", context.run_config}};
    });
    query_.metadata.message_type = "query";
  }
  ConfigRecord Ask() {
    fleet_.Offer(query_);
    const Message reply = fleet_.TakeReply();
    return reply.content.has_value() ? *reply.content->FindConfig("config") : ConfigRecord();
  }

  const std::string bundle_ = ReadFile(FEDUMM_TEST_DATA "/fab/mean-app.fab").value();
  Message query_ = Train();
};

TEST_F(RunConfigTest, OverridesLieOverTheDefaultsOfTheBundle) {
  fleet_.SetFab(bundle_, Sha256Hex(bundle_));
  fleet_.SetRunConfig({{"note", "mine"}, {"train.rate", 0.25}});
  Start();
  const ConfigRecord expected = {{"note", "mine"},
                                 {"num-server-rounds", int64_t{2}},
                                 {"train.rate", 0.25},
                                 {"train.steps", int64_t{1}},
                                 {"verbose", false}};
  EXPECT_EQ(Ask(), expected);
  EXPECT_EQ(Ask(), expected);
  EXPECT_EQ(fleet_.num_calls("GetFab"), 1);
}

TEST_F(RunConfigTest, ABundleThatIsBrokenLeavesTheOverrides) {
  fleet_.SetFab(bundle_.substr(1), Sha256Hex(bundle_.substr(1)));
  fleet_.SetRunConfig({{"note", "mine"}});
  Start();
  EXPECT_EQ(Ask(), (ConfigRecord{{"note", "mine"}}));
  EXPECT_EQ(Ask(), (ConfigRecord{{"note", "mine"}}));
  EXPECT_EQ(fleet_.num_calls("GetFab"), 1);
  const std::vector<std::string> said = events();
  EXPECT_EQ(std::count_if(said.begin(), said.end(),
                          [](const std::string& event) {
                            return absl::StrContains(event, "without its app's defaults");
                          }),
            1);
}

TEST_F(RunConfigTest, ABundleOfAnotherHashIsNotUsed) {
  fleet_.SetFab(bundle_, std::string(64, '0'));
  fleet_.SetRunConfig({{"note", "mine"}});
  Start();
  EXPECT_EQ(Ask(), (ConfigRecord{{"note", "mine"}}));
  EXPECT_THAT(events(), Contains(HasSubstr("another hash")));
}

TEST_F(RunConfigTest, AServerThatHasNoBundleIsNoReasonToStop) {
  fleet_.SetFab(bundle_, Sha256Hex(bundle_));
  fleet_.SetRunConfig({{"note", "mine"}});
  fleet_.Fail("GetFab", {absl::FailedPreconditionError("found no FAB")});
  Start();
  EXPECT_EQ(Ask(), (ConfigRecord{{"note", "mine"}}));
}

TEST_F(NodeTest, KeepsTheStateAndSettingsOfARun) {
  fleet_.SetRunConfig({{"lr", 0.5}});
  options_.node_config = {{"partition-id", int64_t{3}}};
  std::atomic<double> lr = 0;
  std::atomic<double> partition = 0;
  app_.OnQuery([&](const Message&, Context& context) -> absl::StatusOr<RecordDict> {
    lr = NumberOr(context.run_config, "lr", 0);
    partition = NumberOr(context.node_config, "partition-id", 0);
    EXPECT_EQ(context.node_id, FakeFleet::kNodeId);
    EXPECT_EQ(context.run_id, FakeFleet::kRunId);
    return context.state;
  });
  fleet_.Offer(Train({1}));
  fleet_.Offer(Train({2}));
  Start();
  fleet_.TakeReply();
  EXPECT_EQ(NumberOr(*fleet_.TakeReply().content->FindMetrics("metrics"), "count", 0), 2);
  Message query = Train();
  query.metadata.message_type = "query";
  fleet_.Offer(query);
  EXPECT_EQ(NumberOr(*fleet_.TakeReply().content->FindMetrics("count"), "n", 0), 2);
  EXPECT_EQ(lr, 0.5);
  EXPECT_EQ(partition, 3);
  EXPECT_EQ(fleet_.num_calls("GetRun"), 1);
}

TEST_F(NodeTest, TakesARunWithoutSettingsIfTheServerCannotTell) {
  fleet_.Fail("GetRun", {absl::UnimplementedError("old server")});
  fleet_.Offer(Train());
  Start();
  EXPECT_TRUE(fleet_.TakeReply().content.has_value());
}

TEST_F(NodeTest, WaitsForAnObjectThatIsNotAvailableYet) {
  const wire::DeflatedMessage instruction = fleet_.Offer(Train());
  fleet_.Withhold(instruction.objects.front().id, 5);
  Start();
  EXPECT_TRUE(fleet_.TakeReply().content.has_value());
  EXPECT_EQ(fleet_.num_calls("PullObject"), static_cast<int>(instruction.objects.size()) + 5);
}

TEST_F(NodeTest, AnswersWithAnErrorIfAnObjectNeverBecomesAvailable) {
  const wire::DeflatedMessage instruction = fleet_.Offer(Train());
  fleet_.Withhold(instruction.objects.front().id, 1'000'000);
  Start();
  const Message reply = fleet_.TakeReply();
  ASSERT_TRUE(reply.has_error());
  EXPECT_THAT(reply.error->reason, HasSubstr("never became available"));
}

TEST_F(NodeTest, AnswersWithAnErrorIfAnObjectIsMissing) {
  const wire::DeflatedMessage instruction = fleet_.Offer(Train());
  fleet_.Lose(instruction.objects.front().id);
  Start();
  const Message reply = fleet_.TakeReply();
  ASSERT_TRUE(reply.has_error());
  EXPECT_EQ(reply.error->code, ErrorCode::kMessageUnavailable);
  EXPECT_EQ(reply.metadata.reply_to_message_id, instruction.message_id);
  ExpectAlive();
}

TEST_F(NodeTest, F19AnswersWithAnErrorIfBytesDoNotMatchTheirId) {
  const wire::DeflatedMessage instruction = fleet_.Offer(Train());
  fleet_.Replace(instruction.objects.front().id, std::string("ArrayChunk  1\0a", 15));
  Start();
  const Message reply = fleet_.TakeReply();
  ASSERT_TRUE(reply.has_error());
  EXPECT_EQ(reply.error->code, ErrorCode::kMessageUnavailable);
  EXPECT_THAT(reply.error->reason, HasSubstr("hash"));
  EXPECT_EQ(fleet_.num_calls("GetFab"), 0);
  ExpectAlive();
}

TEST_F(NodeTest, F33RefusesAMessageBeyondItsLimits) {
  options_.limits.max_message_bytes = 2000;
  fleet_.Offer(Train(std::vector<float>(1000)));
  Start();
  const Message large = fleet_.TakeReply();
  ASSERT_TRUE(large.has_error());
  EXPECT_THAT(large.error->reason, HasSubstr("2000"));
  ExpectAlive();
}

TEST_F(NodeTest, F18RefusesAnObjectTreeBeyondItsLimits) {
  options_.limits.max_objects_per_message = 10;
  Message many = Train();
  ArrayRecord arrays;
  for (int i = 0; i < 10; ++i) {
    arrays.Set("w" + std::to_string(i), Array::FromFloats({1}, {{static_cast<float>(i)}}));
  }
  many.content->Set("arrays", arrays);
  fleet_.Offer(many);
  Start();
  EXPECT_TRUE(fleet_.TakeReply().has_error());
  EXPECT_EQ(fleet_.num_calls("PullObject"), 0);
  ExpectAlive();
}

TEST_F(NodeTest, F34AnswersWithAnErrorIfTheHandlerFailsOrThrows) {
  app_.OnTrain([](const Message&, Context&) -> absl::StatusOr<RecordDict> {
    return absl::ResourceExhaustedError("CUDA out of memory");
  });
  app_.OnEvaluate([](const Message&, Context&) -> absl::StatusOr<RecordDict> {
    throw std::runtime_error("device lost");
  });
  Message evaluate = Train();
  evaluate.metadata.message_type = "evaluate";
  fleet_.Offer(Train());
  fleet_.Offer(evaluate);
  Start();
  EXPECT_EQ(fleet_.TakeReply().error,
            (Error{ErrorCode::kClientAppRaisedException, "CUDA out of memory"}));
  const Message thrown = fleet_.TakeReply();
  ASSERT_TRUE(thrown.has_error());
  EXPECT_EQ(thrown.error->code, ErrorCode::kClientAppRaisedException);
  EXPECT_THAT(thrown.error->reason, HasSubstr("device lost"));
}

TEST_F(NodeTest, F30AnswersAnUnknownTypeWithAnError) {
  Message strange = Train();
  strange.metadata.message_type = "dance";
  fleet_.Offer(strange);
  Start();
  const Message reply = fleet_.TakeReply();
  ASSERT_TRUE(reply.has_error());
  EXPECT_EQ(reply.error->code, ErrorCode::kLoadClientAppFailed);
  EXPECT_THAT(reply.error->reason, HasSubstr("dance"));
  ExpectAlive();
}

TEST_F(NodeTest, SkipsAMessageThatIsNotItsOwnOrExpiredOrMalformed) {
  Message foreign = Train();
  foreign.metadata.dst_node_id = 5;
  fleet_.Offer(foreign);
  Message expired = Train();
  expired.metadata.created_at = 1'750'000'000;
  expired.metadata.ttl = 10;
  fleet_.Offer(expired);
  Message reply = Train();
  reply.metadata.reply_to_message_id = std::string(64, 'a');
  fleet_.Offer(reply);
  fleet_.OfferRaw({}, {});
  Start();
  ExpectAlive();
  EXPECT_EQ(fleet_.num_calls("PushMessages"), 1);
  EXPECT_THAT(events(),
              AllOf(Contains(HasSubstr("it is for node 5")), Contains(HasSubstr("it expired")),
                    Contains(HasSubstr("it is no instruction"))));
}

TEST_F(NodeTest, DropsAMessageOfARunThatIsOver) {
  const absl::Status over = absl::PermissionDeniedError("run is over");
  fleet_.Fail("GetRun", {over, absl::OkStatus()});
  fleet_.Offer(Train());  // over at once
  Start();
  ASSERT_TRUE(fleet_.AwaitCalls("PullMessages", 2));
  fleet_.Fail("PullObject", {over});
  fleet_.Offer(Train());  // over before it is fetched
  ASSERT_TRUE(fleet_.AwaitCalls("PullMessages", 3));
  fleet_.Fail("PushMessages", {over});
  fleet_.Offer(Train({4}));  // over before it is answered
  ASSERT_TRUE(fleet_.AwaitCalls("PullMessages", 4));
  EXPECT_EQ(fleet_.num_calls("RegisterNode"), 1);
  ExpectAlive();
  EXPECT_EQ(fleet_.num_calls("PushMessages"), 2);
}

TEST_F(NodeTest, RetriesWhatIsUnavailable) {
  const absl::Status down = absl::UnavailableError("connection refused");
  for (const char* rpc : {"RegisterNode", "ActivateNode", "PullMessages", "GetRun", "PullObject",
                          "ConfirmMessageReceived", "PushMessages", "PushObject"}) {
    fleet_.Fail(rpc, {down, down});
  }
  fleet_.Offer(Train());
  Start();
  EXPECT_TRUE(fleet_.TakeReply().content.has_value());
  EXPECT_EQ(fleet_.num_calls("RegisterNode"), 3);
  EXPECT_THAT(events(), Contains(HasSubstr("server unreachable at")));
}

TEST_F(NodeTest, GivesUpWhenRetriesAreUsedUp) {
  options_.max_retries = 3;
  fleet_.Fail("RegisterNode", std::vector<absl::Status>(10, absl::UnavailableError("down")));
  Start();
  EXPECT_THAT(Join(), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(fleet_.num_calls("RegisterNode"), 4);
}

TEST_F(NodeTest, LeavesWithTheServersErrorIfItIsTurnedAwayAtFirstContact) {
  fleet_.Fail("RegisterNode", {absl::FailedPreconditionError("registration is closed")});
  fleet_.Fail("ActivateNode", {absl::FailedPreconditionError("unknown key")});
  Start();
  EXPECT_THAT(Join(), StatusIs(absl::StatusCode::kFailedPrecondition, "registration is closed"));
}

TEST_F(NodeTest, F8LeavesWithTheServersErrorIfItsClockIsWrong) {
  fleet_.Fail("RegisterNode", {absl::UnauthenticatedError("your clock is 600 s behind")});
  Start();
  EXPECT_THAT(Join(), StatusIs(absl::StatusCode::kUnauthenticated, HasSubstr("600 s")));
}

TEST_F(NodeTest, ActivatesAKeyThatAnEarlierTryRegistered) {
  fleet_.Offer(Train());
  fleet_.Fail("RegisterNode", {absl::DeadlineExceededError("answer lost"), absl::OkStatus()});
  Start();
  fleet_.TakeReply();
}

TEST_F(NodeTest, F3JoinsAgainAfterTheServerForgotIt) {
  fleet_.Offer(Train());
  Start();
  fleet_.TakeReply();
  fleet_.ForgetNodes();
  fleet_.Offer(Train({4}));
  EXPECT_TRUE(fleet_.TakeReply().content.has_value());
  EXPECT_EQ(fleet_.num_calls("RegisterNode"), 2);
  EXPECT_EQ(fleet_.num_calls("ActivateNode"), 2);
  EXPECT_THAT(events(), Contains(HasSubstr("joining again")));
}

TEST_F(NodeTest, F24WaitsForAServerThatStillTakesItForOnline) {
  fleet_.Offer(Train());
  Start();
  fleet_.TakeReply();
  fleet_.Fail("RegisterNode",
              std::vector<absl::Status>(5, absl::FailedPreconditionError("key in use")));
  fleet_.Fail("ActivateNode",
              std::vector<absl::Status>(4, absl::FailedPreconditionError("still online")));
  fleet_.Fail("PullMessages", {absl::UnauthenticatedError("unknown node")});
  fleet_.Offer(Train({4}));
  fleet_.TakeReply();  // of the pull that was under way
  fleet_.Offer(Train({5}));
  EXPECT_TRUE(fleet_.TakeReply().content.has_value());
  EXPECT_EQ(fleet_.num_calls("ActivateNode"), 6);
  EXPECT_THAT(events(), Contains(HasSubstr("does not take this node back yet")));
}

TEST_F(NodeTest, LeavesIfItIsNotTakenBack) {
  fleet_.Offer(Train());
  Start();
  fleet_.TakeReply();
  fleet_.Fail("RegisterNode",
              std::vector<absl::Status>(10'000, absl::UnauthenticatedError("revoked")));
  fleet_.ForgetNodes();
  EXPECT_THAT(Join(), StatusIs(absl::StatusCode::kUnauthenticated, "revoked"));
}

TEST_F(NodeTest, LeavesIfItIsTakenBackButNeverServed) {
  fleet_.Fail("PullMessages",
              std::vector<absl::Status>(1000, absl::UnauthenticatedError("bad session")));
  Start();
  EXPECT_THAT(Join(), StatusIs(absl::StatusCode::kUnauthenticated, "bad session"));
  EXPECT_LT(fleet_.num_calls("PullMessages"), 20);
}

TEST_F(NodeTest, JoinsAgainWhenAHeartbeatIsRefused) {
  fleet_.Fail("SendNodeHeartbeat", {absl::UnauthenticatedError("unknown node")});
  Start();
  ASSERT_TRUE(fleet_.AwaitCalls("RegisterNode", 2));
  ExpectAlive();
}

TEST_F(NodeTest, BeatsItsHeartWhileTheHandlerRuns) {
  environment_.heartbeat_wait = [](absl::Duration duration, const std::stop_token& stop) {
    EXPECT_GE(duration, absl::Seconds(17.4));
    EXPECT_LE(duration, absl::Seconds(22.5));
    std::this_thread::yield();
    return !stop.stop_requested();
  };
  app_.OnTrain([this](const Message&, Context&) -> absl::StatusOr<RecordDict> {
    const int before = fleet_.num_calls("SendNodeHeartbeat");
    EXPECT_TRUE(fleet_.AwaitCalls("SendNodeHeartbeat", before + 3));
    return RecordDict();
  });
  fleet_.Offer(Train());
  Start();
  fleet_.TakeReply();
}

TEST_F(NodeTest, AnnouncesTheReplyAgainIfAnObjectIsNotStored) {
  fleet_.RefusePushes(1);
  fleet_.Offer(Train());
  Start();
  EXPECT_TRUE(fleet_.TakeReply().content.has_value());
  EXPECT_EQ(fleet_.num_calls("PushMessages"), 2);
}

TEST_F(NodeTest, SendsAnErrorIfTheObjectsOfItsReplyAreNeverStored) {
  fleet_.RefusePushes(2);
  fleet_.Offer(Train());
  Start();
  const Message reply = fleet_.TakeReply();
  ASSERT_TRUE(reply.has_error());
  EXPECT_EQ(reply.error->code, ErrorCode::kReplyMessageUnavailable);
  EXPECT_THAT(reply.error->reason, HasSubstr("did not store object"));
  EXPECT_EQ(fleet_.num_calls("PushMessages"), 3);
  ExpectAlive();
}

TEST_F(NodeTest, SendsAnErrorThatNamesTheLimitIfItsReplyIsTooLarge) {
  options_.limits.max_object_bytes = 10'000;
  app_.OnQuery([](const Message&, Context&) -> absl::StatusOr<RecordDict> {
    RecordDict reply;
    reply.Set("blob", ConfigRecord{{"bytes", Bytes{std::string(20'000, 'x')}}});
    return reply;
  });
  Message query = Train();
  query.metadata.message_type = "query";
  fleet_.Offer(query);
  Start();
  const Message reply = fleet_.TakeReply();
  ASSERT_TRUE(reply.has_error());
  EXPECT_EQ(reply.error->code, ErrorCode::kReplyMessageUnavailable);
  EXPECT_THAT(reply.error->reason, HasSubstr("limit 10000"));
  ExpectAlive();
}

TEST_F(NodeTest, SendsTheReplyAtHandWhenItIsStopped) {
  app_.OnTrain([this](const Message&, Context&) -> absl::StatusOr<RecordDict> {
    stop_.request_stop();
    return RecordDict();
  });
  fleet_.Offer(Train());
  Start();
  EXPECT_TRUE(fleet_.TakeReply().content.has_value());
  EXPECT_THAT(Join(), IsOk());
  EXPECT_EQ(fleet_.num_calls("UnregisterNode"), 1);
}

TEST_F(NodeTest, StopsWithinTwoSecondsDuringAHeldPull) {
  environment_.wait = WaitFor;
  fleet_.Offer(Train());
  Start();
  fleet_.TakeReply();
  ASSERT_TRUE(fleet_.AwaitCalls("PullMessages", 2));
  const absl::Time stopped = absl::Now();
  EXPECT_THAT(Stop(), IsOk());
  EXPECT_LT(absl::Now() - stopped, absl::Seconds(2));
  EXPECT_THAT(fleet_.calls().back(), "UnregisterNode");
}

TEST_F(NodeTest, StopsWithinTwoSecondsDuringABackoff) {
  environment_.wait = WaitFor;
  fleet_.Fail("RegisterNode", std::vector<absl::Status>(1000, absl::UnavailableError("down")));
  Start();
  ASSERT_TRUE(fleet_.AwaitCalls("RegisterNode", 4));
  const absl::Time stopped = absl::Now();
  EXPECT_THAT(Stop(), IsOk());
  EXPECT_LT(absl::Now() - stopped, absl::Seconds(2));
  EXPECT_EQ(fleet_.num_calls("UnregisterNode"), 0);
}

TEST_F(NodeTest, F25LingersAfterAReplyButNotWithoutOne) {
  fleet_.Offer(Train());
  Start();
  fleet_.TakeReply();
  ASSERT_TRUE(fleet_.AwaitCalls("PullMessages", 2));
  const int64_t before = skipped_ns_;
  EXPECT_THAT(Stop(), IsOk());
  EXPECT_GT(skipped_ns_ - before, 900'000'000);
  EXPECT_LE(skipped_ns_ - before, 1'100'000'000);
}

TEST_F(NodeTest, DoesNotLingerWithoutAReply) {
  Start();
  ASSERT_TRUE(fleet_.AwaitCalls("PullMessages", 1));
  EXPECT_THAT(Stop(), IsOk());
  EXPECT_EQ(skipped_ns_, 0);
}

TEST_F(NodeTest, F38EscapesWhatThePeerSays) {
  fleet_.Fail("RegisterNode", {absl::UnavailableError("\x1b[31m\nred")});
  Start();
  ASSERT_TRUE(fleet_.AwaitCalls("PullMessages", 1));
  for (const std::string& event : events()) {
    EXPECT_FALSE(absl::StrContains(event, "\x1b") || absl::StrContains(event, "\n")) << event;
  }
}

}  // namespace
}  // namespace fedumm
