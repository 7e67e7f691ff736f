// Real Flower's answers, recorded, to a node of ours.
#include <gtest/gtest.h>

#include <deque>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "nlohmann/json.hpp"
#include "node/node_loop.h"
#include "tests/testing/status_matchers.h"

namespace fedumm {
namespace {

using ::fedumm::testing::IsOk;

// Answers each call with the next recorded response of its kind. When the pulls are used up, the
// node is stopped.
class RecordedFleet final : public FleetClient {
 public:
  RecordedFleet(const std::string& path, std::stop_source& stop) : stop_(stop) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
      const auto call = nlohmann::json::parse(line);
      const std::string method = call.at("method").get<std::string>();
      calls_[method.substr(method.rfind('/') + 1)].push_back(
          {absl::HexStringToBytes(call.at("request").get<std::string>()),
           absl::HexStringToBytes(call.at("response").get<std::string>())});
    }
    const auto& pulls = calls_.at("PullMessages");
    for (const Recorded& pull : pulls) {
      flwr::proto::PullMessagesResponse response;
      EXPECT_TRUE(response.ParseFromString(pull.response));
      for (const auto& message : response.messages_list()) {
        recorded_at_ = absl::FromUnixSeconds(static_cast<int64_t>(message.metadata().created_at()));
      }
    }
  }

  absl::Time recorded_at() const { return recorded_at_; }
  const std::vector<flwr::proto::PushMessagesRequest>& replies() const { return replies_; }
  const std::vector<int>& num_wanted() const { return num_wanted_; }
  int num_pushed() const { return num_pushed_; }

  absl::StatusOr<flwr::proto::RegisterNodeFleetResponse> RegisterNode(
      const flwr::proto::RegisterNodeFleetRequest&, const CallOptions&) override {
    return Next<flwr::proto::RegisterNodeFleetResponse>("RegisterNode");
  }
  absl::StatusOr<flwr::proto::ActivateNodeResponse> ActivateNode(
      const flwr::proto::ActivateNodeRequest&, const CallOptions&) override {
    return Next<flwr::proto::ActivateNodeResponse>("ActivateNode");
  }
  absl::StatusOr<flwr::proto::DeactivateNodeResponse> DeactivateNode(
      const flwr::proto::DeactivateNodeRequest&, const CallOptions&) override {
    return Next<flwr::proto::DeactivateNodeResponse>("DeactivateNode");
  }
  absl::StatusOr<flwr::proto::UnregisterNodeFleetResponse> UnregisterNode(
      const flwr::proto::UnregisterNodeFleetRequest&, const CallOptions&) override {
    return Next<flwr::proto::UnregisterNodeFleetResponse>("UnregisterNode");
  }
  absl::StatusOr<flwr::proto::SendNodeHeartbeatResponse> SendNodeHeartbeat(
      const flwr::proto::SendNodeHeartbeatRequest&, const CallOptions&) override {
    flwr::proto::SendNodeHeartbeatResponse response;
    response.set_success(true);
    return response;
  }
  absl::StatusOr<flwr::proto::PullMessagesResponse> PullMessages(
      const flwr::proto::PullMessagesRequest&, const CallOptions&) override {
    if (calls_["PullMessages"].size() == 1) stop_.request_stop();
    return Next<flwr::proto::PullMessagesResponse>("PullMessages");
  }
  absl::StatusOr<flwr::proto::GetRunResponse> GetRun(const flwr::proto::GetRunRequest&,
                                                     const CallOptions&) override {
    return Next<flwr::proto::GetRunResponse>("GetRun");
  }
  absl::StatusOr<flwr::proto::GetFabResponse> GetFab(const flwr::proto::GetFabRequest&,
                                                     const CallOptions&) override {
    return Next<flwr::proto::GetFabResponse>("GetFab");
  }
  absl::StatusOr<flwr::proto::PullObjectResponse> PullObject(
      const flwr::proto::PullObjectRequest& request, const CallOptions&) override {
    for (const Recorded& call : calls_["PullObject"]) {
      flwr::proto::PullObjectRequest recorded;
      if (!recorded.ParseFromString(call.request) || recorded.object_id() != request.object_id()) {
        continue;
      }
      flwr::proto::PullObjectResponse response;
      EXPECT_TRUE(response.ParseFromString(call.response));
      return response;
    }
    return flwr::proto::PullObjectResponse();
  }
  absl::StatusOr<flwr::proto::ConfirmMessageReceivedResponse> ConfirmMessageReceived(
      const flwr::proto::ConfirmMessageReceivedRequest&, const CallOptions&) override {
    return Next<flwr::proto::ConfirmMessageReceivedResponse>("ConfirmMessageReceived");
  }
  absl::StatusOr<flwr::proto::PushMessagesResponse> PushMessages(
      const flwr::proto::PushMessagesRequest& request, const CallOptions&) override {
    replies_.push_back(request);
    auto response = Next<flwr::proto::PushMessagesResponse>("PushMessages");
    num_wanted_.push_back(response.ok() ? response->objects_to_push_size() : 0);
    return response;
  }
  absl::StatusOr<flwr::proto::PushObjectResponse> PushObject(const flwr::proto::PushObjectRequest&,
                                                             const CallOptions&) override {
    ++num_pushed_;
    return Next<flwr::proto::PushObjectResponse>("PushObject");
  }

 private:
  struct Recorded {
    std::string request;
    std::string response;
  };

  template <typename Response>
  absl::StatusOr<Response> Next(const std::string& rpc) {
    std::deque<Recorded>& recorded = calls_[rpc];
    if (recorded.empty()) {
      ADD_FAILURE() << "more calls of " << rpc << " than recorded";
      return absl::InternalError("no more");
    }
    Response response;
    EXPECT_TRUE(response.ParseFromString(recorded.front().response));
    recorded.pop_front();
    return response;
  }

  std::stop_source& stop_;
  std::map<std::string, std::deque<Recorded>> calls_;
  std::vector<flwr::proto::PushMessagesRequest> replies_;
  std::vector<int> num_wanted_;
  int num_pushed_ = 0;
  absl::Time recorded_at_;
};

class ReplayTest : public ::testing::TestWithParam<const char*> {};

TEST_P(ReplayTest, TheNodeAnswersBothRoundsOfARealServer) {
  std::stop_source stop;
  RecordedFleet fleet(std::string(FEDUMM_TEST_DATA) + "/node/" + GetParam(), stop);
  std::vector<Array> seen;
  double num_rounds = 0;
  ClientApp app;
  // What the recorded app did: add 0.01 to every array.
  app.OnTrain([&](const Message& message, Context& context) -> absl::StatusOr<RecordDict> {
    num_rounds = NumberOr(context.run_config, "num-rounds", 0);
    ArrayRecord trained;
    for (const auto& [key, array] : *message.content->FindArrays("arrays")) {
      seen.push_back(array);
      std::vector<float> values(array.floats()->begin(), array.floats()->end());
      for (float& value : values) value += 0.01f;
      trained.Set(key, Array::FromFloats({4, 4}, values));
    }
    const double round = NumberOr(*message.content->FindConfig("config"), "server-round", 0);
    return RecordDict{
        {"arrays", std::move(trained)},
        {"metrics", MetricRecord{{"num-examples", int64_t{10}}, {"train_loss", 1 / round}}}};
  });
  SuperNodeOptions options;
  NodeEnvironment environment;
  environment.clock = [&fleet] { return fleet.recorded_at() + absl::Seconds(1); };
  environment.wait = [](absl::Duration, const std::stop_token& token) {
    return !token.stop_requested();
  };
  EXPECT_THAT(RunNode(app, fleet, "PEM", options, environment, stop.get_token()), IsOk());

  ASSERT_EQ(seen.size(), 2);
  for (const Array& array : seen) {
    EXPECT_EQ(array.dtype(), DType::kFloat32);
    EXPECT_EQ(array.ShapeString(), "[4, 4]");
  }
  EXPECT_FALSE(seen[0] == seen[1]);
  EXPECT_EQ(num_rounds, 2);
  // The objects of the reply have the ids that Flower's node gave them, but for the message, which
  // says when it was made.
  EXPECT_THAT(fleet.num_wanted(), ::testing::ElementsAre(6, 6));
  EXPECT_EQ(fleet.num_pushed(), 2 * 5);
  ASSERT_EQ(fleet.replies().size(), 2);
  for (const flwr::proto::PushMessagesRequest& reply : fleet.replies()) {
    const flwr::proto::Metadata& metadata = reply.messages_list(0).metadata();
    EXPECT_EQ(metadata.dst_node_id(), 1);
    EXPECT_EQ(metadata.src_node_id(), reply.node().node_id());
    EXPECT_EQ(metadata.reply_to_message_id().size(), 64);
    EXPECT_EQ(metadata.message_id(), reply.message_object_trees(0).object_id());
    EXPECT_TRUE(reply.messages_list(0).has_content());
  }
}

INSTANTIATE_TEST_SUITE_P(Versions, ReplayTest,
                         ::testing::Values("grpc-1.28-fleet.jsonl", "grpc-1.39-fleet.jsonl"));

}  // namespace
}  // namespace fedumm
