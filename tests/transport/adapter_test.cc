// Flower's grpc-adapter, both halves.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/server_builder.h>

#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "fedumm/super_link.h"
#include "fedumm/super_node.h"
#include "flwr/proto/grpcadapter.grpc.pb.h"
#include "nlohmann/json.hpp"
#include "tests/testing/status_matchers.h"
#include "tests/transport/stub_client.h"
#include "transport/grpc_client.h"

namespace fedumm {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using flwr::proto::GrpcAdapter;
using flwr::proto::MessageContainer;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

const CallOptions kOptions = {.timeout = absl::Seconds(20)};

struct RecordedCall {
  MessageContainer request;
  MessageContainer response;
};
std::vector<RecordedCall> Recorded() {
  std::vector<RecordedCall> calls;
  std::ifstream file(std::string(FEDUMM_TEST_DATA) + "/node/grpc-1.28-adapter.jsonl");
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::json::parse(line);
    RecordedCall& call = calls.emplace_back();
    EXPECT_TRUE(
        call.request.ParseFromString(absl::HexStringToBytes(json["request"].get<std::string>())));
    EXPECT_TRUE(
        call.response.ParseFromString(absl::HexStringToBytes(json["response"].get<std::string>())));
  }
  EXPECT_THAT(calls, Not(IsEmpty()));
  return calls;
}

class AdapterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(
        link_, SuperLink::Start({.grpc_adapter_address = "127.0.0.1:0", .insecure = true}));
    address_ = absl::StrCat("127.0.0.1:", link_->grpc_adapter_port());
    client_ = NewGrpcAdapterFleetClient(
        {.server = *HostPort::Parse(address_), .proxy = std::nullopt}, nullptr, {});
  }
  absl::StatusOr<uint64_t> Join(const std::string& key) {
    flwr::proto::RegisterNodeFleetRequest registration;
    registration.set_public_key(key);
    const auto registered = client_->RegisterNode(registration, kOptions);
    if (!registered.ok()) return registered.status();
    flwr::proto::ActivateNodeRequest activation;
    activation.set_public_key(key);
    activation.set_heartbeat_interval(30);
    const auto activated = client_->ActivateNode(activation, kOptions);
    if (!activated.ok()) return activated.status();
    return activated->node_id();
  }
  template <typename Request>
  static Request For(uint64_t node) {
    Request request;
    request.mutable_node()->set_node_id(node);
    return request;
  }
  bool Beat(uint64_t node) {
    auto beat = For<flwr::proto::SendNodeHeartbeatRequest>(node);
    beat.set_heartbeat_interval(30);
    const auto answer = client_->SendNodeHeartbeat(beat, kOptions);
    EXPECT_THAT(answer, IsOk());
    return answer.ok() && answer->success();
  }

  std::unique_ptr<SuperLink> link_;
  std::string address_;
  std::unique_ptr<FleetClient> client_;
};

TEST_F(AdapterTest, NodeJoinsAndPollsWithoutBeingHeld) {
  ASSERT_OK_AND_ASSIGN(const uint64_t node, Join("a name"));
  EXPECT_TRUE(Beat(node));
  const absl::Time before = absl::Now();
  const auto pulled = client_->PullMessages(For<flwr::proto::PullMessagesRequest>(node), kOptions);
  ASSERT_THAT(pulled, IsOk());
  EXPECT_THAT(pulled->messages_list(), IsEmpty());
  EXPECT_LT(absl::Now() - before, absl::Seconds(5)) << "the other transports hold it for ten";
}

TEST_F(AdapterTest, AKeylessCallerCannotActForANodeThatSigns) {
  StubClient signing(link_->fleet_port());
  ASSERT_TRUE(signing.Join().ok());
  EXPECT_FALSE(Beat(signing.node_id));
  ASSERT_OK_AND_ASSIGN(const uint64_t impostor, Join(signing.public_key()));
  EXPECT_NE(impostor, signing.node_id);
}

TEST_F(AdapterTest, TroubleIsToldInFields) {
  EXPECT_FALSE(Beat(7));
  auto pull = For<flwr::proto::PullObjectRequest>(7);
  pull.set_run_id(7);
  const auto object = client_->PullObject(pull, kOptions);
  ASSERT_THAT(object, IsOk());
  EXPECT_FALSE(object->object_found());
  const auto stored = client_->PushObject(For<flwr::proto::PushObjectRequest>(7), kOptions);
  ASSERT_THAT(stored, IsOk());
  EXPECT_FALSE(stored->stored());
  const auto pushed = client_->PushMessages(For<flwr::proto::PushMessagesRequest>(7), kOptions);
  ASSERT_THAT(pushed, IsOk());
  EXPECT_THAT(pushed->objects_to_push(), IsEmpty());
}

TEST_F(AdapterTest, ANodeThatIsRefusedForGoodIsSentHomeOnceAndForAll) {
  flwr::proto::ActivateNodeRequest activation;
  activation.set_public_key("never registered");
  activation.set_heartbeat_interval(30);
  EXPECT_THAT(client_->ActivateNode(activation, kOptions).status(),
              StatusIs(absl::StatusCode::kAborted));
  EXPECT_THAT(client_->PullMessages(For<flwr::proto::PullMessagesRequest>(7), kOptions).status(),
              StatusIs(absl::StatusCode::kAborted));
}

TEST_F(AdapterTest, RecordedRequestsGetAnswersOfTheRecordedMake) {
  const auto stub =
      GrpcAdapter::NewStub(grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()));
  for (const RecordedCall& call : Recorded()) {
    grpc::ClientContext context;
    MessageContainer answer;
    const grpc::Status status = stub->SendReceive(&context, call.request, &answer);
    ASSERT_TRUE(status.ok()) << call.request.grpc_message_name() << status.error_message();
    EXPECT_EQ(answer.grpc_message_name(), call.response.grpc_message_name());
    for (const auto& [key, value] : call.response.metadata()) {
      ASSERT_TRUE(answer.metadata().contains(key)) << key;
      if (key.starts_with("grpc-")) {
        EXPECT_EQ(answer.metadata().at(key), value);
      }
    }
  }
}

TEST_F(AdapterTest, WhatIsNoCallSendsTheSenderHome) {
  const auto stub =
      GrpcAdapter::NewStub(grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()));
  MessageContainer request;
  for (const char* name : {"", "Nonsense", "PullMessagesRequest"}) {
    grpc::ClientContext context;
    request.set_grpc_message_name(name);
    request.set_grpc_message_content("\xff");
    MessageContainer answer;
    ASSERT_TRUE(stub->SendReceive(&context, request, &answer).ok());
    EXPECT_EQ(answer.metadata().at("should-exit"), "true");
  }
}

TEST_F(AdapterTest, ASuperNodeAnswersThroughTheTunnel) {
  ASSERT_OK_AND_ASSIGN(const auto grid, link_->CreateRun({}));
  ClientApp app;
  app.OnTrain([](const Message& message, Context&) -> absl::StatusOr<RecordDict> {
    return *message.content;
  });
  std::stop_source stop;
  absl::Status ended;
  std::thread node([&] {
    ended = RunSuperNode(
        app, {.superlink = address_, .transport = Transport::kGrpcAdapter, .insecure = true},
        stop.get_token());
  });
  const auto nodes = grid->WaitForNodes(1, absl::Now() + absl::Minutes(1));
  EXPECT_THAT(nodes, IsOk());
  EXPECT_THAT(*nodes, SizeIs(1));
  Message message;
  message.metadata.dst_node_id = nodes->empty() ? 0 : nodes->front();
  message.metadata.message_type = "train";
  message.content.emplace();
  message.content->Set("arrays",
                       ArrayRecord{{"w", Array::FromFloats({2}, std::vector<float>{1, 2})}});
  int replies = 0;
  EXPECT_THAT(grid->SendAndReceive({message}, absl::Minutes(1),
                                   [&](const Message& reply) {
                                     EXPECT_EQ(reply.content, message.content);
                                     return ++replies > 0;
                                   }),
              IsOk());
  EXPECT_EQ(replies, 1);
  stop.request_stop();
  node.join();
  EXPECT_THAT(ended, IsOk());
}

// Answers each call with what Flower's server said to the recorded one of its kind, and from then
// on sends the node home.
class RecordedServer final : public GrpcAdapter::Service {
 public:
  grpc::Status SendReceive(grpc::ServerContext*, const MessageContainer*,
                           MessageContainer* response) override {
    while (next_ < calls_.size() && IsHeartbeat(calls_[next_])) ++next_;
    if (next_ < calls_.size()) {
      *response = calls_[next_++].response;
    } else {
      (*response->mutable_metadata())["should-exit"] = "true";
    }
    return grpc::Status::OK;
  }

 private:
  static bool IsHeartbeat(const RecordedCall& call) {
    return call.request.grpc_message_name() == "SendNodeHeartbeatRequest";
  }

  const std::vector<RecordedCall> calls_ = Recorded();
  size_t next_ = 0;
};

TEST(AdapterClientTest, RecordedAnswersAreUnderstood) {
  RecordedServer service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  const auto client = NewGrpcAdapterFleetClient(
      {.server = {"127.0.0.1", static_cast<uint16_t>(port)}, .proxy = std::nullopt}, nullptr, {});
  const std::map<std::string, std::function<absl::Status()>> calls = {
      {"RegisterNodeFleetRequest", [&] { return client->RegisterNode({}, kOptions).status(); }},
      {"ActivateNodeRequest", [&] { return client->ActivateNode({}, kOptions).status(); }},
      {"DeactivateNodeRequest", [&] { return client->DeactivateNode({}, kOptions).status(); }},
      {"UnregisterNodeFleetRequest", [&] { return client->UnregisterNode({}, kOptions).status(); }},
      {"PullMessagesRequest", [&] { return client->PullMessages({}, kOptions).status(); }},
      {"PushMessagesRequest", [&] { return client->PushMessages({}, kOptions).status(); }},
      {"GetRunRequest", [&] { return client->GetRun({}, kOptions).status(); }},
      {"GetFabRequest", [&] { return client->GetFab({}, kOptions).status(); }},
      {"PullObjectRequest", [&] { return client->PullObject({}, kOptions).status(); }},
      {"PushObjectRequest", [&] { return client->PushObject({}, kOptions).status(); }},
      {"ConfirmMessageReceivedRequest",
       [&] { return client->ConfirmMessageReceived({}, kOptions).status(); }}};
  for (const RecordedCall& call : Recorded()) {
    const auto known = calls.find(call.request.grpc_message_name());
    if (known == calls.end()) {  // comes when it likes
      EXPECT_EQ(call.request.grpc_message_name(), "SendNodeHeartbeatRequest");
    } else {
      EXPECT_THAT(known->second(), IsOk()) << known->first;
    }
  }
  EXPECT_THAT(client->GetRun({}, kOptions).status(), StatusIs(absl::StatusCode::kAborted));
}

TEST(AdapterStartTest, OnlyLoopbackAddressesAreServed) {
  for (const char* address : {"0.0.0.0:0", "[::]:0", "127.0.0.1.example:0", "example:0", "x"}) {
    EXPECT_THAT(SuperLink::Start({.grpc_adapter_address = address, .insecure = true}),
                StatusIs(absl::StatusCode::kInvalidArgument))
        << address;
  }
}

}  // namespace
}  // namespace fedumm
