// A SuperLink on a real port, called by a bare gRPC client.
#include "fedumm/super_link.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <future>
#include <iostream>
#include <optional>
#include <thread>
#include <vector>

#include "fedumm/client_app.h"
#include "tests/testing/status_matchers.h"
#include "tests/transport/stub_client.h"
#include "wire/object.h"
#include "wire/proto.h"

namespace fedumm {
namespace {

using Stub = flwr::proto::Fleet::Stub;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::IsOk;
using testing::IsOkAndHolds;
using ::testing::SizeIs;
using testing::StatusIs;

class SuperLinkTest : public ::testing::Test {
 protected:
  void SetUp() override { Start({.insecure = true}); }
  void Start(SuperLinkOptions options) {
    grid_.reset();
    ASSERT_OK_AND_ASSIGN(link_, SuperLink::Start(std::move(options)));
    ASSERT_OK_AND_ASSIGN(grid_, link_->CreateRun({}));
    client_.emplace(link_->fleet_port());
    ASSERT_TRUE(client_->Join().ok());
  }
  Message Instruction() const {
    Message message;
    message.metadata.dst_node_id = client_->node_id;
    message.metadata.message_type = "train";
    message.content.emplace();
    message.content->Set("arrays",
                         ArrayRecord{{"w", Array::FromFloats({2}, std::vector<float>{1, 2})}});
    return message;
  }
  // Fetches, confirms and answers the pulled message with its own content.
  void Answer(const flwr::proto::PullMessagesResponse& pulled) {
    ASSERT_EQ(pulled.messages_list_size(), 1);
    ASSERT_OK_AND_ASSIGN(const Metadata metadata,
                         wire::MetadataFromProto(pulled.messages_list(0).metadata(), {}));
    const auto fetch = [&](std::string_view id) -> wire::ObjectBytes {
      auto request = client_->New<flwr::proto::PullObjectRequest>();
      flwr::proto::PullObjectResponse response;
      request.set_run_id(metadata.run_id);
      request.set_object_id(std::string(id));
      EXPECT_TRUE(client_->Call(&Stub::PullObject, request, response).ok());
      EXPECT_TRUE(response.object_found() && response.object_available());
      return std::make_shared<const std::string>(response.object_content());
    };
    ASSERT_OK_AND_ASSIGN(Message message, wire::Inflate(metadata.message_id, fetch, {}));
    auto confirm = client_->New<flwr::proto::ConfirmMessageReceivedRequest>();
    flwr::proto::ConfirmMessageReceivedResponse confirmed;
    confirm.set_run_id(metadata.run_id);
    confirm.set_message_object_id(metadata.message_id);
    ASSERT_TRUE(client_->Call(&Stub::ConfirmMessageReceived, confirm, confirmed).ok());

    Message reply = MakeReply(message, *message.content, absl::ToUnixNanos(absl::Now()) * 1e-9);
    wire::DeflatedMessage deflated = wire::Deflater().Deflate(reply);
    reply.metadata.message_id = deflated.message_id;
    auto push = client_->New<flwr::proto::PushMessagesRequest>();
    *push.add_messages_list() = wire::MessageToWire(reply);
    *push.add_message_object_trees() = deflated.tree;
    flwr::proto::PushMessagesResponse pushed;
    ASSERT_TRUE(client_->Call(&Stub::PushMessages, push, pushed).ok());
    for (const wire::Object& object : deflated.objects) {
      const auto& wanted = pushed.objects_to_push();
      if (std::find(wanted.begin(), wanted.end(), object.id) == wanted.end()) continue;
      auto request = client_->New<flwr::proto::PushObjectRequest>();
      flwr::proto::PushObjectResponse response;
      request.set_run_id(metadata.run_id);
      request.set_object_id(object.id);
      request.set_object_content(*object.bytes);
      request.set_session_id(pushed.session_id());
      ASSERT_TRUE(client_->Call(&Stub::PushObject, request, response).ok());
      EXPECT_TRUE(response.stored());
    }
  }

  std::unique_ptr<SuperLink> link_;
  std::unique_ptr<Grid> grid_;
  std::optional<StubClient> client_;
};

TEST_F(SuperLinkTest, NodeJoinsWorksAndLeaves) {
  EXPECT_THAT(grid_->NodeIds(), ElementsAre(client_->node_id));
  std::thread node([&] { Answer(client_->Pull()); });
  const Message instruction = Instruction();
  std::vector<Message> replies;
  EXPECT_THAT(grid_->SendAndReceive({instruction}, absl::Minutes(1),
                                    [&](Message reply) {
                                      replies.push_back(std::move(reply));
                                      return true;
                                    }),
              IsOk());
  node.join();
  ASSERT_THAT(replies, SizeIs(1));
  EXPECT_EQ(replies[0].content, instruction.content);
  EXPECT_EQ(replies[0].metadata.src_node_id, client_->node_id);

  flwr::proto::UnregisterNodeFleetRequest request;
  flwr::proto::UnregisterNodeFleetResponse response;
  request.set_node_id(client_->node_id);
  EXPECT_TRUE(client_->Call(&Stub::UnregisterNode, request, response).ok());
  EXPECT_THAT(link_->Nodes(), IsEmpty());
}

TEST_F(SuperLinkTest, PushWakesAHeldPull) {
  constexpr int kRounds = 31;
  std::vector<absl::Duration> delays;
  for (int round = 0; round < kRounds; ++round) {
    std::future<absl::Time> pulled = std::async(std::launch::async, [&] {
      EXPECT_EQ(client_->Pull().messages_list_size(), 1);
      return absl::Now();
    });
    // Most pulls are held by the time that these calls on the same connection have returned.
    flwr::proto::SendNodeHeartbeatResponse response;
    auto request = client_->New<flwr::proto::SendNodeHeartbeatRequest>();
    request.set_heartbeat_interval(30);
    for (int call = 0; call < 3; ++call) {
      EXPECT_TRUE(client_->Call(&Stub::SendNodeHeartbeat, request, response).ok());
    }
    const absl::Time before = absl::Now();
    ASSERT_THAT(grid_->PushMessages({Instruction()}), IsOk());
    delays.push_back(pulled.get() - before);
  }
  std::sort(delays.begin(), delays.end());
  std::cout << "from PushMessages to the answer: median " << delays[kRounds / 2] << ", slowest "
            << delays.back() << "\n";
  EXPECT_LT(delays[kRounds / 2], absl::Seconds(1)) << "the hold is ten seconds";
}

TEST_F(SuperLinkTest, MessageForACallerThatLeftIsOfferedAgain) {
  // Of a caller whose leaving crosses its answer on the way, the server never hears: then it is the
  // lease that brings the message back.
  Start({.insecure = true, .lease = absl::Seconds(1)});
  grpc::ClientContext context;
  client_->Sign(context);
  std::thread leaver([&] {
    flwr::proto::PullMessagesResponse response;
    const grpc::Status status = client_->stub().PullMessages(
        &context, client_->New<flwr::proto::PullMessagesRequest>(), &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  });
  context.TryCancel();
  leaver.join();
  // Whether the server hears of the leaver before or after this push, the next pull has the
  // message.
  ASSERT_THAT(grid_->PushMessages({Instruction()}), IsOk());
  EXPECT_EQ(client_->Pull().messages_list_size(), 1);
}

TEST_F(SuperLinkTest, PullIsAnsweredBeforeItsDeadline) {
  grpc::ClientContext context;
  client_->Sign(context);
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(2)));
  flwr::proto::PullMessagesResponse response;
  EXPECT_TRUE(
      client_->stub()
          .PullMessages(&context, client_->New<flwr::proto::PullMessagesRequest>(), &response)
          .ok());
}

TEST_F(SuperLinkTest, StopEndsEveryWait) {
  std::thread node([&] { EXPECT_THAT(client_->Pull().messages_list(), IsEmpty()); });
  std::thread application([&] {
    EXPECT_THAT(grid_->WaitForNodes(2, absl::InfiniteFuture()),
                StatusIs(absl::StatusCode::kCancelled));
  });
  link_->Stop();
  link_->Stop();
  node.join();
  application.join();
  EXPECT_THAT(link_->CreateRun({}), StatusIs(absl::StatusCode::kCancelled));
}

TEST_F(SuperLinkTest, TrafficIsCountedPerNode) {
  const Grid::Traffic before = grid_->NodeTraffic(client_->node_id);
  flwr::proto::SendNodeHeartbeatResponse response;
  auto request = client_->New<flwr::proto::SendNodeHeartbeatRequest>();
  request.set_heartbeat_interval(30);
  ASSERT_TRUE(client_->Call(&Stub::SendNodeHeartbeat, request, response).ok());
  const Grid::Traffic after = grid_->NodeTraffic(client_->node_id);
  EXPECT_EQ(after.bytes_up - before.bytes_up, request.ByteSizeLong() + 5);
  EXPECT_EQ(after.bytes_down - before.bytes_down, response.ByteSizeLong() + 5);
  EXPECT_EQ(grid_->NodeTraffic(7).bytes_up, 0);
}

TEST_F(SuperLinkTest, ErrorsAreThoseThatFlowersNodesUnderstand) {
  auto get_run = client_->New<flwr::proto::GetRunRequest>();
  flwr::proto::GetRunResponse run;
  get_run.set_run_id(7);
  EXPECT_EQ(client_->Call(&Stub::GetRun, get_run, run).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);

  StubClient stranger(link_->fleet_port());
  auto pull = stranger.New<flwr::proto::PullMessagesRequest>();
  flwr::proto::PullMessagesResponse pulled;
  EXPECT_EQ(stranger.Call(&Stub::PullMessages, pull, pulled).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  grpc::ClientContext unsigned_call;
  EXPECT_EQ(client_->stub().PullMessages(&unsigned_call, pull, &pulled).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);

  flwr::proto::ActivateNodeRequest activate;
  flwr::proto::ActivateNodeResponse activated;
  activate.set_public_key(client_->public_key());
  activate.set_heartbeat_interval(1);
  EXPECT_EQ(client_->Call(&Stub::ActivateNode, activate, activated).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  activate.set_public_key(stranger.public_key());
  activate.set_heartbeat_interval(30);
  EXPECT_EQ(stranger.Call(&Stub::ActivateNode, activate, activated).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(SuperLinkTest, FiveMebibyteObjectsPass) {
  Message instruction = Instruction();
  instruction.content->Set(
      "big",
      ArrayRecord{{"w", Array::FromFloats({1'400'000}, std::vector<float>(1'400'000, 0.5f))}});
  ASSERT_OK_AND_ASSIGN(const auto ids, grid_->PushMessages({instruction}));
  Answer(client_->Pull());
  ASSERT_OK_AND_ASSIGN(const std::vector<Message> replies,
                       grid_->PullMessages(ids, absl::Now() + absl::Minutes(1)));
  ASSERT_THAT(replies, SizeIs(1));
  EXPECT_EQ(replies[0].content, instruction.content);
}

// Before any message was sent to it.
TEST_F(SuperLinkTest, ALargeCallOfAStrangerIsRefusedWithoutBeingParsed) {
  auto object = client_->New<flwr::proto::PushObjectRequest>();
  object.set_object_id(std::string(64, 'a'));
  object.set_object_content(std::string(size_t{30} << 20, 'x'));
  flwr::proto::PushObjectResponse stored;
  EXPECT_EQ(client_->Call(&Stub::PushObject, object, stored).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  auto push = client_->New<flwr::proto::PushMessagesRequest>();
  push.add_message_object_trees()->set_object_id(std::string(size_t{30} << 20, 'x'));
  flwr::proto::PushMessagesResponse pushed;
  EXPECT_EQ(client_->Call(&Stub::PushMessages, push, pushed).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST(SuperLinkStartTest, PlaintextMustBeAskedFor) {
  EXPECT_THAT(SuperLink::Start({}), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST(SuperLinkStartTest, BadAddressIsInvalid) {
  for (const char* address : {"localhost", ":9092", "localhost:", "localhost:x", "h:65536"}) {
    EXPECT_THAT(SuperLink::Start({.fleet_api_address = address, .insecure = true}),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(address)))
        << address;
  }
}

TEST(SuperLinkStartTest, PortInUseIsUnavailable) {
  ASSERT_OK_AND_ASSIGN(const auto first, SuperLink::Start({.insecure = true}));
  const std::string address = absl::StrCat("127.0.0.1:", first->fleet_port());
  EXPECT_THAT(SuperLink::Start({.fleet_api_address = address, .insecure = true}),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr(address)));
}

}  // namespace
}  // namespace fedumm
