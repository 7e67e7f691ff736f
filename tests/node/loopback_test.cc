// A SuperLink and its SuperNodes in one process, over gRPC on loopback.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <map>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "fedumm/super_link.h"
#include "fedumm/super_node.h"
#include "tests/testing/status_matchers.h"

namespace fedumm {
namespace {

using ::fedumm::testing::IsOk;

constexpr absl::Duration kTestTimeout =
    absl::Seconds(60);  // only a broken federation takes that long

class LoopbackTest : public ::testing::Test {
 protected:
  ~LoopbackTest() override {
    {
      const MutexLock lock(mutex_);
      released_ = true;
      changed_.NotifyAll();
    }
    StopNodes();
  }

  void StartLink(int port = 0) {
    SuperLinkOptions options;
    options.fleet_api_address = absl::StrCat("127.0.0.1:", port);
    options.insecure = true;
    ASSERT_OK_AND_ASSIGN(link_, SuperLink::Start(options));
  }
  // A node that adds `step` to every array; if `hangs`, its second training does not end before the
  // test does.
  void StartNode(float step, bool hangs = false) {
    Node& node = nodes_.emplace_back();
    node.app.OnTrain([this, step, hangs](const Message& message,
                                         Context& context) -> absl::StatusOr<RecordDict> {
      const MetricRecord* const before = context.state.FindMetrics("count");
      const double count = (before == nullptr ? 0 : NumberOr(*before, "n", 0)) + 1;
      context.state.Set("count", MetricRecord{{"n", count}});
      if (hangs && count == 2) Hang();
      ArrayRecord trained;
      for (const auto& [key, array] : *message.content->FindArrays("arrays")) {
        std::vector<float> values(array.floats()->begin(), array.floats()->end());
        for (float& value : values) value += step;
        trained.Set(key, Array::FromFloats({array.shape().begin(), array.shape().end()}, values));
      }
      return RecordDict{{"arrays", std::move(trained)},
                        {"metrics", MetricRecord{{"num-examples", int64_t{1}}, {"count", count}}}};
    });
    const std::string address = absl::StrCat("127.0.0.1:", link_->fleet_port());
    node.thread = std::thread([&node, address] {
      node.result =
          RunSuperNode(node.app, {.superlink = address, .insecure = true}, node.stop.get_token());
    });
  }
  void StopNodes() {
    for (Node& node : nodes_) node.stop.request_stop();
    for (Node& node : nodes_) {
      if (!node.thread.joinable()) continue;
      node.thread.join();
      EXPECT_THAT(node.result, IsOk());
    }
  }

  // One round of training on `arrays` with every node, until `quorum` have answered. By node id.
  std::map<uint64_t, Message> Train(Grid& grid, int num_nodes, const ArrayRecord& arrays,
                                    int quorum) {
    const auto node_ids = grid.WaitForNodes(num_nodes, absl::Now() + kTestTimeout);
    EXPECT_THAT(node_ids, IsOk());
    EXPECT_EQ(node_ids->size(), num_nodes);
    std::vector<Message> messages;
    for (const uint64_t node_id : *node_ids) {
      messages.push_back(
          {.metadata = {.dst_node_id = node_id, .message_type = "train"},
           .content = RecordDict{{"arrays", arrays},
                                 {"config", ConfigRecord{{"server-round", int64_t{1}}}}}});
    }
    std::map<uint64_t, Message> replies;
    EXPECT_THAT(grid.SendAndReceive(std::move(messages), kTestTimeout,
                                    [&](Message reply) {
                                      const uint64_t source = reply.metadata.src_node_id;
                                      replies[source] = std::move(reply);
                                      return replies.size() < quorum;
                                    }),
                IsOk());
    EXPECT_EQ(replies.size(), quorum);
    return replies;
  }
  // What each reply added to the first element, and how many trainings its node had done,
  // ascending.
  static std::vector<std::pair<double, double>> Steps(const std::map<uint64_t, Message>& replies,
                                                      const ArrayRecord& arrays) {
    std::vector<std::pair<double, double>> steps;
    for (const auto& [node_id, reply] : replies) {
      EXPECT_TRUE(reply.content.has_value()) << reply.error->reason;
      if (!reply.content.has_value()) continue;
      const Array& trained = *reply.content->FindArrays("arrays")->Find("w");
      EXPECT_EQ(trained.ShapeString(), arrays.Find("w")->ShapeString());
      steps.emplace_back((*trained.floats())[0] - (*arrays.Find("w")->floats())[0],
                         NumberOr(*reply.content->FindMetrics("metrics"), "count", 0));
    }
    std::ranges::sort(steps);
    return steps;
  }
  static ArrayRecord Ones(int64_t size) {
    return {{"w", Array::FromFloats({size}, std::vector<float>(size, 1))}};
  }
  using Expected = std::vector<std::pair<double, double>>;

  std::unique_ptr<SuperLink> link_;

 private:
  struct Node {
    ClientApp app;
    std::stop_source stop;
    absl::Status result;
    std::thread thread;
  };

  void Hang() {
    const MutexLock lock(mutex_);
    while (!released_) changed_.Wait(mutex_);
  }

  Mutex mutex_;
  CondVar changed_;
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
  std::list<Node> nodes_;
};

TEST_F(LoopbackTest, ThreeNodesAnswerTwoRoundsOfManyChunks) {
  StartLink();
  for (const float step : {1, 2, 3}) StartNode(step);
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Grid> grid, link_->CreateRun({}));
  const ArrayRecord arrays = Ones(3 << 20);  // 12 MiB: three chunks
  auto replies = Train(*grid, 3, arrays, 3);
  EXPECT_EQ(Steps(replies, arrays), (Expected{{1, 1}, {2, 1}, {3, 1}}));
  const ArrayRecord next = *replies.begin()->second.content->FindArrays("arrays");
  EXPECT_EQ(Steps(Train(*grid, 3, next, 3), next), (Expected{{1, 2}, {2, 2}, {3, 2}}));
  for (const auto& [node_id, reply] : replies) {
    EXPECT_GT(grid->NodeTraffic(node_id).bytes_down, 24'000'000);
    EXPECT_GT(grid->NodeTraffic(node_id).bytes_up, 24'000'000);
  }
  StopNodes();
  for (const NodeStatus& node : link_->Nodes()) EXPECT_FALSE(node.online);
}

TEST_F(LoopbackTest, F2TheRoundGoesOnWithoutANodeThatNeverAnswers) {
  StartLink();
  StartNode(1);
  StartNode(2);
  StartNode(3, /*hangs=*/true);
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Grid> grid, link_->CreateRun({}));
  const ArrayRecord arrays = Ones(8);
  EXPECT_EQ(Steps(Train(*grid, 3, arrays, 3), arrays), (Expected{{1, 1}, {2, 1}, {3, 1}}));
  EXPECT_EQ(Steps(Train(*grid, 3, arrays, 2), arrays), (Expected{{1, 2}, {2, 2}}));
  EXPECT_EQ(Steps(Train(*grid, 3, arrays, 2), arrays), (Expected{{1, 3}, {2, 3}}));
}

TEST_F(LoopbackTest, F3NodesComeBackToAServerThatRestartedAndForgotThem) {
  StartLink();
  for (const float step : {1, 2, 3}) StartNode(step);
  const ArrayRecord arrays = Ones(8);
  {
    ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Grid> grid, link_->CreateRun({}));
    EXPECT_EQ(Steps(Train(*grid, 3, arrays, 3), arrays), (Expected{{1, 1}, {2, 1}, {3, 1}}));
  }
  const int port = link_->fleet_port();
  link_.reset();
  StartLink(port);
  ASSERT_EQ(link_->fleet_port(), port);
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Grid> grid, link_->CreateRun({}));
  const absl::Time restarted = absl::Now();
  // Another run: its state starts anew.
  EXPECT_EQ(Steps(Train(*grid, 3, arrays, 3), arrays), (Expected{{1, 1}, {2, 1}, {3, 1}}));
  RecordProperty("seconds_to_first_round",
                 absl::StrCat(absl::ToDoubleSeconds(absl::Now() - restarted)));
  EXPECT_EQ(link_->Nodes().size(), 3);
}

TEST_F(LoopbackTest, StopsWithinTwoSecondsWhetherTheServerIsThereOrNot) {
  StartLink();
  StartNode(1);
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Grid> grid, link_->CreateRun({}));
  Train(*grid, 1, Ones(8), 1);
  absl::Time stopped = absl::Now();
  StopNodes();  // in a held pull, with a reply that was sent just now
  EXPECT_LT(absl::Now() - stopped, absl::Seconds(2));

  StartNode(2);
  ASSERT_THAT(grid->WaitForNodes(1, absl::Now() + kTestTimeout), IsOk());
  link_->Stop();
  stopped = absl::Now();
  StopNodes();
  EXPECT_LT(absl::Now() - stopped, absl::Seconds(2));
}

TEST_F(LoopbackTest, PlaintextMustBeAskedForByName) {
  StartLink();
  const std::string address = absl::StrCat("127.0.0.1:", link_->fleet_port());
  EXPECT_THAT(RunSuperNode(ClientApp(), {.superlink = address}, {}),
              ::fedumm::testing::StatusIs(absl::StatusCode::kFailedPrecondition));
}

// Only arrays travel in chunks: a value is one object, whatever its size and transport.
class LargeValueTest : public ::testing::TestWithParam<Transport> {
 protected:
  static constexpr size_t kLargeBytes = 30'000'000;  // more than a call of a stranger may have

  // What the node answers if it is sent a value of `down` bytes and answers with one of `up`.
  static absl::StatusOr<Message> Ask(size_t down, size_t up, const Limits& server_limits = {}) {
    SuperLinkOptions options{.http_address = "127.0.0.1:0",
                             .grpc_adapter_address = "127.0.0.1:0",
                             .insecure = true,
                             .limits = server_limits};
    auto link = SuperLink::Start(options);
    if (!link.ok()) return link.status();
    ClientApp app;
    app.OnQuery([up](const Message& message, Context&) -> absl::StatusOr<RecordDict> {
      const auto* down_value = std::get_if<Bytes>(message.content->FindConfig("down")->Find("v"));
      return RecordDict{
          {"up", ConfigRecord{{"v", Bytes{std::string(up, 'u')}},
                              {"down", static_cast<int64_t>(down_value->value.size())}}}};
    });
    const int port = GetParam() == Transport::kHttp          ? (*link)->http_port()
                     : GetParam() == Transport::kGrpcAdapter ? (*link)->grpc_adapter_port()
                                                             : (*link)->fleet_port();
    std::jthread node([&app, port](const std::stop_token& stop) {
      EXPECT_THAT(RunSuperNode(app,
                               {.superlink = absl::StrCat("127.0.0.1:", port),
                                .transport = GetParam(),
                                .insecure = true,
                                .linger = absl::ZeroDuration()},
                               stop),
                  IsOk());
    });
    auto grid = (*link)->CreateRun({});
    if (!grid.ok()) return grid.status();
    const auto nodes = (*grid)->WaitForNodes(1, absl::Now() + kTestTimeout);
    if (!nodes.ok()) return nodes.status();
    absl::StatusOr<Message> answer = absl::NotFoundError("no reply");
    std::vector<Message> messages;
    messages.push_back(
        {.metadata = {.dst_node_id = nodes->at(0), .message_type = "query"},
         .content = RecordDict{{"down", ConfigRecord{{"v", Bytes{std::string(down, 'd')}}}}}});
    const absl::Status sent =
        (*grid)->SendAndReceive(std::move(messages), kTestTimeout, [&](Message reply) {
          answer = std::move(reply);
          return false;
        });
    node.request_stop();
    node.join();
    if (!sent.ok()) return sent;
    return answer;
  }
};

TEST_P(LargeValueTest, AValueOfThirtyMegabytesTravelsBothWays) {
  ASSERT_OK_AND_ASSIGN(const Message reply, Ask(kLargeBytes, kLargeBytes));
  ASSERT_TRUE(reply.content.has_value()) << reply.error->reason;
  const ConfigRecord& up = *reply.content->FindConfig("up");
  EXPECT_EQ(NumberOr(up, "down", 0), kLargeBytes);
  EXPECT_EQ(std::get<Bytes>(*up.Find("v")).value, std::string(kLargeBytes, 'u'));
}

TEST_P(LargeValueTest, AReplyBeyondTheServersLimitIsAnErrorAtOnce) {
  ASSERT_OK_AND_ASSIGN(const Message reply, Ask(10, 10'000, {.max_object_bytes = 5000}));
  ASSERT_TRUE(reply.has_error());
  EXPECT_THAT(reply.error->reason, ::testing::HasSubstr("limit 5000"));
}

INSTANTIATE_TEST_SUITE_P(Transports, LargeValueTest,
                         ::testing::Values(Transport::kGrpcRere, Transport::kHttp,
                                           Transport::kGrpcAdapter),
                         [](const auto& info) {
                           return info.param == Transport::kHttp          ? "Http"
                                  : info.param == Transport::kGrpcAdapter ? "GrpcAdapter"
                                                                          : "GrpcRere";
                         });

TEST(SuperNode, GivesUpOnAnUnreachableServerWhenRetriesAreUsedUp) {
  EXPECT_THAT(RunSuperNode(ClientApp(),
                           {.superlink = "127.0.0.1:1", .insecure = true, .max_retries = 1}, {}),
              ::fedumm::testing::StatusIs(absl::StatusCode::kUnavailable));
}

}  // namespace
}  // namespace fedumm
