#include "transport/fleet_http.h"

#include <gmock/gmock.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "link/fleet.h"
#include "link/link_state.h"
#include "link/run_grid.h"
#include "nlohmann/json.hpp"
#include "tests/testing/status_matchers.h"
#include "tests/transport/http_stub.h"
#include "transport/http_routes.h"
#include "transport/http_server.h"
#include "wire/object.h"

namespace fedumm::transport {
namespace {

using flwr::proto::ConfirmMessageReceivedRequest;
using flwr::proto::GetFabRequest;
using flwr::proto::GetRunRequest;
using flwr::proto::PullMessagesRequest;
using flwr::proto::PullMessagesResponse;
using flwr::proto::PullObjectRequest;
using flwr::proto::PushMessagesRequest;
using flwr::proto::PushObjectRequest;
using flwr::proto::SendNodeHeartbeatRequest;
using flwr::proto::SendNodeHeartbeatResponse;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::StartsWith;
using Answer = RawClient::Answer;

// The code in an error, 0 if it has none, -1 if it is no error of Flower's.
int CodeOf(const Answer& answer) {
  const nlohmann::json json = nlohmann::json::parse(answer.body, nullptr, false);
  if (answer.headers.at("content-type") != "application/json" || !json.is_object() ||
      !json.contains("detail") || !json["detail"].is_string()) {
    return -1;
  }
  return json.value("code", 0);
}

// Base64 as Flower does not write it.
std::string Unpadded(std::string text) {
  text.resize(text.find_last_not_of('=') + 1);
  return text;
}

// Matches an error answer.
MATCHER_P2(IsError, status, code, "is that error") {
  *result_listener << arg.status << " " << arg.body;
  return arg.status == status && CodeOf(arg) == code;
}

// The Fleet over HTTP, with time that the test sets, and one run.
class FleetHttpTest : public ::testing::Test {
 protected:
  FleetHttpTest() { Start({.max_pull_hold = absl::ZeroDuration()}); }
  ~FleetHttpTest() override {
    fleet_.Stop();
    server_.reset();
  }

  void Start(FleetHttpOptions options) {
    server_.reset();
    server_ = *HttpServer::Start({.address = "127.0.0.1:0"},
                                 RouteByPrefix({{kFleetPath, NewFleetHandler(fleet_, options)}}));
  }
  std::unique_ptr<Grid> NewRun() {
    MutexLock lock(state_.mu);
    return std::make_unique<link::RunGrid>(state_, *state_.runs.Create({}, absl::Now()));
  }
  std::string Send(uint64_t node) {
    Message message;
    message.metadata.dst_node_id = node;
    message.metadata.message_type = "train";
    message.content.emplace();
    message.content->Set("config", ConfigRecord{{"server-round", ++num_sent_}});
    return grid_->PushMessages({message})->at(0);
  }
  bool IsHeld(uint64_t node) {
    MutexLock lock(state_.mu);
    return state_.pulls.Find(node) != nullptr;
  }
  // False if that does not become so within ten seconds.
  bool Await(bool held, uint64_t node) {
    const absl::Time end = absl::Now() + absl::Seconds(10);
    while (IsHeld(node) != held) {
      if (absl::Now() > end) return false;
      std::this_thread::yield();
    }
    return true;
  }
  void PassTime(absl::Duration time) {
    now_ += absl::ToInt64Nanoseconds(time);
    fleet_.Tick();
  }

  std::atomic<int64_t> now_ = absl::ToUnixNanos(absl::FromUnixSeconds(1'000'000));
  Limits limits_{.max_nodes = 3, .max_stored_bytes = 100'000};
  link::LinkState state_{
      {.limits = limits_, .timer = [this] { return absl::FromUnixNanos(now_.load()); }}};
  link::Fleet fleet_{state_};
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<Grid> grid_ = NewRun();
  int64_t num_sent_ = 0;
};

TEST_F(FleetHttpTest, ServesANode) {
  HttpStub node(server_->port());
  ASSERT_TRUE(node.Join());
  SendNodeHeartbeatResponse beat;
  auto heartbeat = node.New<SendNodeHeartbeatRequest>();
  heartbeat.set_heartbeat_interval(30);
  EXPECT_EQ(node.Call("send-node-heartbeat", heartbeat, beat), 200);
  EXPECT_TRUE(beat.success());
  EXPECT_THAT(node.Pull().messages_list(), IsEmpty());
  const std::string message_id = Send(node.node_id);
  const PullMessagesResponse pulled = node.Pull();
  ASSERT_THAT(pulled.messages_list(), SizeIs(1));
  EXPECT_EQ(pulled.messages_list(0).metadata().message_id(), message_id);
  const std::vector<std::string> ids = *wire::TreeIds(pulled.message_object_trees(0), {});
  for (const std::string& id : ids) {
    auto request = node.New<PullObjectRequest>(grid_->run_id());
    request.set_object_id(id);
    flwr::proto::PullObjectResponse object;
    ASSERT_EQ(node.Call("pull-object", request, object), 200);
    EXPECT_TRUE(object.object_found());
    EXPECT_TRUE(object.object_available());
    EXPECT_EQ(object.object_content(), *state_.objects.Find(id));
  }
  auto confirm = node.New<ConfirmMessageReceivedRequest>(grid_->run_id());
  confirm.set_message_object_id(message_id);
  const Answer confirmed = node.Post("confirm-message-received", confirm);
  EXPECT_EQ(confirmed.status, 200);
  EXPECT_EQ(confirmed.headers.at("content-type"), "application/protobuf");
  EXPECT_EQ(confirmed.body, "");
  flwr::proto::DeactivateNodeRequest deactivate;
  deactivate.set_node_id(node.node_id);
  EXPECT_EQ(node.Post("deactivate-node", deactivate).status, 200);
  flwr::proto::UnregisterNodeFleetRequest unregister;
  unregister.set_node_id(node.node_id);
  EXPECT_EQ(node.Post("unregister-node", unregister).status, 200);
}

TEST_F(FleetHttpTest, AnObjectThatIsNotToBeHadIsNotFound) {
  HttpStub node(server_->port());
  ASSERT_TRUE(node.Join());
  auto request = node.New<PullObjectRequest>(grid_->run_id());
  request.set_object_id(std::string(64, 'a'));
  flwr::proto::PullObjectResponse object;
  EXPECT_EQ(node.Call("pull-object", request, object), 200);
  EXPECT_FALSE(object.object_found());
}

TEST_F(FleetHttpTest, CountsTheBytesOnTheWire) {
  HttpStub node(server_->port());
  ASSERT_TRUE(node.Join());
  const Grid::Traffic before = grid_->NodeTraffic(node.node_id);
  EXPECT_EQ(before.bytes_up, node.bytes_sent);
  const Answer answer = node.Post("pull-messages", node.New<PullMessagesRequest>());
  const Grid::Traffic after = grid_->NodeTraffic(node.node_id);
  EXPECT_EQ(after.bytes_up, node.bytes_sent);
  EXPECT_NEAR(static_cast<double>(after.bytes_down - before.bytes_down),
              static_cast<double>(80 + answer.body.size()), 10);
}

TEST_F(FleetHttpTest, RefusesWhatIsNoCall) {
  HttpStub node(server_->port());
  ASSERT_TRUE(node.Join());
  const std::string body = node.New<PullMessagesRequest>().SerializeAsString();
  EXPECT_THAT(node.Post("pull-nothing", body, node.Signed()), IsError(404, 0));
  node.client().Send("GET /v1/elsewhere HTTP/1.1\r\n\r\n");
  EXPECT_THAT(node.client().ReadAnswer(), IsError(404, 0));
  node.client().Send("GET /v1/fleet/pull-messages HTTP/1.1\r\n\r\n");
  const Answer answer = node.client().ReadAnswer();
  EXPECT_THAT(answer, IsError(405, 0));
  EXPECT_EQ(answer.headers.at("allow"), "POST");
  for (const char* type : {"", "application/json", "application/protobufs", "text/protobuf"}) {
    EXPECT_THAT(node.Post("pull-messages", body, node.Signed(), type), IsError(415, 1002)) << type;
  }
  for (const char* type : {"Application/Protobuf", "application/protobuf ; v=1"}) {
    EXPECT_EQ(node.Post("pull-messages", body, node.Signed(), type).status, 200) << type;
  }
  EXPECT_THAT(node.Post("pull-messages", "\xff", node.Signed()), IsError(400, 1003));
}

TEST_F(FleetHttpTest, RefusesACallerThatIsNotAuthenticated) {
  HttpStub node(server_->port());
  HttpStub other(server_->port());
  HttpStub unknown(server_->port());
  ASSERT_TRUE(node.Join());
  ASSERT_TRUE(other.Join());
  const std::string body = node.New<PullMessagesRequest>().SerializeAsString();
  const std::string key = HttpStub::KeyHeader(node.public_key());
  std::string now;
  std::string signature;
  do {  // until there is padding to leave out
    now = HttpStub::Timestamp();
    signature = absl::Base64Escape(*node.key().Sign(now));
  } while (!signature.ends_with('='));
  const std::string time_line = absl::StrCat("flwr-timestamp: ", now, "\r\n");
  const std::string signature_line = absl::StrCat("flwr-signature: ", signature, "\r\n");
  const auto at = [&](absl::Duration offset) {
    return key + node.Signature(HttpStub::Timestamp(absl::Now() + offset));
  };
  const std::vector<std::pair<std::string, std::string>> refused = {
      {"no headers", ""},
      {"no key", time_line + signature_line},
      {"no time", key + signature_line},
      {"no signature", key + time_line},
      {"key not in base64",
       "flwr-public-key: " + node.public_key().substr(0, 26) + "\r\n" + time_line + signature_line},
      {"signature of another time",
       key + "flwr-timestamp: " + HttpStub::Timestamp(absl::Now() + absl::Seconds(1)) + "\r\n" +
           signature_line},
      {"two signatures", key + time_line + signature_line + signature_line},
      {"signature with a space", key + time_line + "flwr-signature: " + signature.substr(0, 8) +
                                     " " + signature.substr(8) + "\r\n"},
      {"too old", at(absl::Seconds(-310))},
      {"too new", at(absl::Seconds(8))},
      {"no zone", key + node.Signature(absl::FormatTime("%Y-%m-%dT%H:%M:%E6S", absl::Now(),
                                                        absl::UTCTimeZone()))},
      {"unknown key", unknown.Signed()},
      {"key of another node", other.Signed()},
      {"signature without padding",
       key + time_line + "flwr-signature: " + Unpadded(signature) + "\r\n"},
      {"text for a key", HttpStub::KeyHeader("no key") + node.Signature()},
  };
  for (const auto& [what, headers] : refused) {
    const Answer answer = node.Post("pull-messages", body, headers);
    EXPECT_THAT(answer, IsError(401, 0)) << what;
    EXPECT_THAT(answer.body, StartsWith(R"({"detail":"Invalid SuperNode authentication)")) << what;
  }
  EXPECT_EQ(node.Post("pull-messages", body, at(absl::Seconds(-290))).status, 200);
  EXPECT_EQ(node.Post("pull-messages", body, at(absl::Seconds(4))).status, 200);
  const std::string once = node.Signed();
  EXPECT_EQ(node.Post("pull-messages", body, once).status, 200);
  EXPECT_THAT(node.Post("pull-messages", body, once), IsError(401, 0));
  flwr::proto::RegisterNodeFleetRequest reg;
  reg.set_public_key(unknown.public_key());
  EXPECT_THAT(node.Post("register-node", reg), IsError(401, 0));
  flwr::proto::ActivateNodeRequest activate;
  activate.set_public_key(other.public_key());
  activate.set_heartbeat_interval(30);
  EXPECT_THAT(node.Post("activate-node", activate), IsError(401, 0));
}

TEST_F(FleetHttpTest, RefusesAHeartbeatIntervalThatIsNotAllowed) {
  HttpStub node(server_->port());
  ASSERT_TRUE(node.Join());
  EXPECT_EQ(node.Activate(5), 400);
  for (const double interval : {9.9, 1801.0}) {
    auto heartbeat = node.New<SendNodeHeartbeatRequest>();
    heartbeat.set_heartbeat_interval(interval);
    EXPECT_THAT(node.Post("send-node-heartbeat", heartbeat), IsError(400, 2003));
  }
}

TEST_F(FleetHttpTest, SaysThatARunIsOver) {
  HttpStub node(server_->port());
  ASSERT_TRUE(node.Join());
  const uint64_t run = grid_->run_id();
  grid_ = nullptr;
  auto push = node.New<PushMessagesRequest>();
  push.add_messages_list()->mutable_metadata()->set_run_id(run);
  push.add_message_object_trees();
  EXPECT_THAT(node.Post("push-messages", push), IsError(403, 2007));
  EXPECT_THAT(node.Post("push-object", node.New<PushObjectRequest>(run)), IsError(403, 2007));
  EXPECT_THAT(node.Post("pull-object", node.New<PullObjectRequest>(run)), IsError(403, 2007));
  EXPECT_THAT(node.Post("confirm-message-received", node.New<ConfirmMessageReceivedRequest>(run)),
              IsError(403, 2007));
  EXPECT_THAT(node.Post("get-run", node.New<GetRunRequest>(run)), IsError(403, 2008));
  EXPECT_THAT(node.Post("get-fab", node.New<GetFabRequest>(run)), IsError(403, 2009));
  grid_ = NewRun();
}

TEST_F(FleetHttpTest, RefusesAReplyThatIsNone) {
  HttpStub node(server_->port());
  ASSERT_TRUE(node.Join());
  EXPECT_THAT(node.Post("push-messages", node.New<PushMessagesRequest>()), IsError(400, 1003));
}

TEST_F(FleetHttpTest, RefusesToActivateANodeThatIsNotRegistered) {
  HttpStub node(server_->port());
  flwr::proto::ActivateNodeRequest activate;
  activate.set_public_key(node.public_key());
  activate.set_heartbeat_interval(30);
  EXPECT_THAT(node.Post("activate-node", activate), IsError(412, 2004));
}

TEST_F(FleetHttpTest, AnUnregisteredKeyCannotComeBack) {
  HttpStub node(server_->port());
  ASSERT_TRUE(node.Join());
  flwr::proto::UnregisterNodeFleetRequest unregister;
  unregister.set_node_id(node.node_id);
  ASSERT_EQ(node.Post("unregister-node", unregister).status, 200);
  flwr::proto::RegisterNodeFleetRequest reg;
  reg.set_public_key(node.public_key());
  EXPECT_THAT(node.Post("register-node", reg), IsError(412, 23));
}

TEST_F(FleetHttpTest, TroubleOfItsOwnIsAReasonToTryAgain) {
  HttpStub node(server_->port());
  ASSERT_TRUE(node.Join());
  auto push = node.New<PushObjectRequest>(grid_->run_id());
  push.set_object_id(std::string(64, 'a'));
  push.set_object_content(std::string(200'000, 'x'));
  EXPECT_THAT(node.Post("push-object", push), IsError(503, 0)) << "the store is full";
  HttpStub second(server_->port());
  HttpStub third(server_->port());
  HttpStub fourth(server_->port());
  ASSERT_TRUE(second.Join() && third.Join());
  EXPECT_EQ(fourth.Register(), 503) << "there are as many nodes as may be";
  fleet_.Stop();
  EXPECT_THAT(node.Post("pull-messages", node.New<PullMessagesRequest>()), IsError(503, 0));
}

TEST_F(FleetHttpTest, ToleratesUnknownFieldsAndAnyVersion) {
  HttpStub node(server_->port());
  ASSERT_TRUE(node.Join());
  const std::string body = node.New<PullMessagesRequest>().SerializeAsString() +
                           "\xf2\x7f\x03new"  // field 2046
                           "\xf8\x7f\x2a";    // field 2047
  for (const char* versions :
       {"", "flwr-package-name: flwr\r\nflwr-package-version: 99.0.0-rc1\r\n",
        "flwr-package-name: other\r\n", "flwr-package-version: nonsense \xc3\xbc\r\n",
        "flwr-component-name: \r\nflwr-package-version:\r\n", "flwr-unheard-of: 1\r\n"}) {
    EXPECT_EQ(node.Post("pull-messages", body, versions + node.Signed()).status, 200) << versions;
  }
}

TEST_F(FleetHttpTest, AnswersAHeldPullAsSoonAsThereIsAMessage) {
  Start({.max_pull_hold = absl::Hours(1)});
  HttpStub node(server_->port());
  ASSERT_TRUE(node.Join());
  const std::string body = node.New<PullMessagesRequest>().SerializeAsString();
  node.Send("pull-messages", body, node.Signed());
  ASSERT_TRUE(Await(true, node.node_id));
  const std::string message_id = Send(node.node_id);
  PullMessagesResponse response;
  ASSERT_TRUE(response.ParseFromString(node.client().ReadAnswer().body));
  ASSERT_THAT(response.messages_list(), SizeIs(1));
  EXPECT_EQ(response.messages_list(0).metadata().message_id(), message_id);
  // What was delivered is not offered again.
  node.Send("pull-messages", body, node.Signed());
  ASSERT_TRUE(Await(true, node.node_id));
}

TEST_F(FleetHttpTest, HoldsNoPullLongerThanANodeWaits) {
  Start({.max_pull_hold = absl::Hours(1)});
  HttpStub node(server_->port());
  ASSERT_TRUE(node.Join());
  node.Send("pull-messages", node.New<PullMessagesRequest>().SerializeAsString(), node.Signed());
  ASSERT_TRUE(Await(true, node.node_id));
  PassTime(absl::Seconds(24));
  EXPECT_TRUE(IsHeld(node.node_id));
  PassTime(absl::Seconds(1));
  EXPECT_FALSE(IsHeld(node.node_id));
  const Answer answer = node.client().ReadAnswer();
  EXPECT_EQ(answer.status, 200);
  PullMessagesResponse response;
  ASSERT_TRUE(response.ParseFromString(answer.body));
  EXPECT_THAT(response.messages_list(), IsEmpty());
}

TEST_F(FleetHttpTest, AMessageIsNotLostWithAPollThatLeft) {
  Start({.max_pull_hold = absl::Hours(1)});
  HttpStub node(server_->port());
  ASSERT_TRUE(node.Join());
  const std::string body = node.New<PullMessagesRequest>().SerializeAsString();
  {
    RawClient leaver(server_->port());
    leaver.Send(
        absl::StrCat("POST /v1/fleet/pull-messages HTTP/1.1\r\ncontent-type: "
                     "application/protobuf\r\ncontent-length: ",
                     body.size(), "\r\n", node.Signed(), "\r\n", body));
    ASSERT_TRUE(Await(true, node.node_id));
  }
  ASSERT_TRUE(Await(false, node.node_id)) << "the server has not noticed";
  const std::string message_id = Send(node.node_id);
  EXPECT_EQ(node.Pull().messages_list(0).metadata().message_id(), message_id);
}

TEST_F(FleetHttpTest, TheNodesNextPollTakesThePlaceOfTheOneBefore) {
  Start({.max_pull_hold = absl::Hours(1)});
  HttpStub node(server_->port());
  ASSERT_TRUE(node.Join());
  const std::string body = node.New<PullMessagesRequest>().SerializeAsString();
  RawClient second(server_->port());
  node.Send("pull-messages", body, node.Signed());
  ASSERT_TRUE(Await(true, node.node_id));
  second.Send(
      absl::StrCat("POST /v1/fleet/pull-messages HTTP/1.1\r\ncontent-type: "
                   "application/protobuf\r\ncontent-length: ",
                   body.size(), "\r\n", node.Signed(), "\r\n", body));
  EXPECT_EQ(node.client().ReadAnswer().status, 200);
  Send(node.node_id);
  PullMessagesResponse response;
  ASSERT_TRUE(response.ParseFromString(second.ReadAnswer().body));
  EXPECT_THAT(response.messages_list(), SizeIs(1));
}

// An exchange without network, whose peer leaves when the test says so.
class FakeExchange final : public HttpExchange {
 public:
  explicit FakeExchange(HttpRequest request) : request_(std::move(request)) {}
  HttpRequest& request() override { return request_; }
  void OnGone(std::function<void()> on_gone) override { on_gone_ = std::move(on_gone); }
  void Respond(HttpResponse response) override { responses.push_back(std::move(response)); }
  void StartStream(std::string /*content_type*/) override {}
  bool Write(std::string /*piece*/) override { return false; }
  void Finish() override {}
  void Leave() { on_gone_(); }

  std::vector<HttpResponse> responses;

 private:
  HttpRequest request_;
  std::function<void()> on_gone_;
};

TEST_F(FleetHttpTest, AMessageWhoseAnswerDidNotGoOutIsOfferedAgain) {
  HttpStub node(server_->port());
  ASSERT_TRUE(node.Join());
  const std::string message_id = Send(node.node_id);
  const std::string timestamp = HttpStub::Timestamp();
  const auto exchange = std::make_shared<FakeExchange>(
      HttpRequest{.method = "POST",
                  .path = "/v1/fleet/pull-messages",
                  .headers = {{"content-type", "application/protobuf"},
                              {"flwr-public-key", absl::Base64Escape(node.public_key())},
                              {"flwr-timestamp", timestamp},
                              {"flwr-signature", absl::Base64Escape(*node.key().Sign(timestamp))}},
                  .body = node.New<PullMessagesRequest>().SerializeAsString()});
  NewFleetHandler(fleet_, {})(exchange);
  ASSERT_THAT(exchange->responses, SizeIs(1));
  EXPECT_THAT(exchange->responses[0].body, HasSubstr(message_id));
  EXPECT_THAT(node.Pull().messages_list(), IsEmpty()) << "it is on its way";
  exchange->Leave();
  EXPECT_EQ(node.Pull().messages_list(0).metadata().message_id(), message_id);
}

TEST_F(FleetHttpTest, ALargeBodyNeedsAnUploadAndASignature) {
  const int64_t usual = limits_.max_call_bytes;
  const auto limit = FleetBodyLimit(fleet_, usual);
  HttpRequest head{.method = "POST", .path = "/v1/fleet/push-object"};
  head.headers["content-length"] = "1000000000";
  EXPECT_EQ(limit(head), usual) << "no signature";
  head.headers["flwr-public-key"] = "%";
  EXPECT_EQ(limit(head), usual) << "no base64";
  head.path = "/v1/fleet/push-messages";
  EXPECT_EQ(limit(head), usual) << "no upload";
}

TEST(FleetHttpCodesTest, ARegistrationThatOnlyOperatorsMayDoHasItsOwnCode) {
  link::LinkState state({.known_keys_only = true});
  link::Fleet fleet(state);
  const auto server = *HttpServer::Start({.address = "127.0.0.1:0"},
                                         NewFleetHandler(fleet, {.enable_supernode_auth = true}));
  HttpStub node(server->port());
  flwr::proto::RegisterNodeFleetRequest reg;
  reg.set_public_key(node.public_key());
  EXPECT_THAT(node.Post("register-node", reg), IsError(412, 2001));
}

}  // namespace
}  // namespace fedumm::transport
