// A node of ours at an HTTP server: what becomes of each status of each call, and real Flower's
// answers replayed.
#include "transport/http_fleet_client.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <deque>
#include <fstream>
#include <future>
#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "node/node_loop.h"
#include "tests/testing/status_matchers.h"
#include "tests/transport/fake_fleet_http.h"

namespace fedumm::transport {
namespace {

using ::testing::AllOf;
using testing::FakeFleetHttp;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::RawPeer;
using testing::RawServer;
using testing::StatusIs;

Message Train(float value) {
  return {.content = RecordDict{
              {"arrays", ArrayRecord{{"w", Array::FromFloats({1}, std::vector<float>{value})}}}}};
}

ClientApp EchoApp() {
  ClientApp app;
  app.OnTrain([](const Message& message, Context&) -> absl::StatusOr<RecordDict> {
    RecordDict reply = *message.content;
    reply.Set("metrics", MetricRecord{{"num-examples", int64_t{10}}});
    return reply;
  });
  return app;
}

// --- The status of one call ---

struct StatusCase {
  int status;
  int code;
  absl::StatusCode expected;
};

class StatusTest : public ::testing::TestWithParam<StatusCase> {};

TEST_P(StatusTest, BecomesTheCodeThatANodeActsOn) {
  const auto& [status, code, expected] = GetParam();
  FakeFleet fleet;
  FakeFleetHttp server(fleet);
  server.Fail("get-run", {{status, code}});
  ASSERT_OK_AND_ASSIGN(const NodeKey key, NodeKey::Generate());
  const auto client =
      NewHttpFleetClient({.server = *HostPort::Parse(server.address())}, nullptr, key, {});
  std::string said = absl::StrCat("HTTP status ", status, ": injected");
  if (code != 0) absl::StrAppend(&said, " (code ", code, ")");
  EXPECT_THAT(client->GetRun({}, {.timeout = absl::Seconds(20)}),
              StatusIs(expected, HasSubstr(said)));
}

INSTANTIATE_TEST_SUITE_P(
    All, StatusTest,
    ::testing::Values(StatusCase{400, 1003, absl::StatusCode::kInvalidArgument},
                      StatusCase{401, 0, absl::StatusCode::kUnauthenticated},
                      StatusCase{403, 2007, absl::StatusCode::kPermissionDenied},
                      StatusCase{404, 0, absl::StatusCode::kUnimplemented},
                      StatusCase{405, 0, absl::StatusCode::kUnimplemented},
                      StatusCase{408, 0, absl::StatusCode::kUnavailable},
                      StatusCase{409, 0, absl::StatusCode::kInvalidArgument},
                      StatusCase{412, 2004, absl::StatusCode::kFailedPrecondition},
                      StatusCase{415, 1002, absl::StatusCode::kUnimplemented},
                      StatusCase{429, 0, absl::StatusCode::kUnavailable},
                      StatusCase{500, 0, absl::StatusCode::kInternal},
                      StatusCase{500, 1001, absl::StatusCode::kFailedPrecondition},
                      StatusCase{502, 0, absl::StatusCode::kUnavailable},
                      StatusCase{503, 0, absl::StatusCode::kUnavailable},
                      StatusCase{504, 0, absl::StatusCode::kUnavailable},
                      StatusCase{505, 0, absl::StatusCode::kInternal},
                      StatusCase{307, 0, absl::StatusCode::kFailedPrecondition}),
    [](const auto& test) { return absl::StrCat(test.param.status, "_", test.param.code); });

class HttpFleetClientTest : public ::testing::Test {
 protected:
  HttpFleetClientTest() : key_(*NodeKey::Generate()) {}
  // What a call becomes that is answered by `answer`.
  absl::Status Outcome(const std::string& answer) {
    RawServer server([&](RawPeer& peer, int) {
      peer.ReceiveRequest();
      peer.Send(answer);
    });
    const auto client =
        NewHttpFleetClient({.server = *HostPort::Parse(server.address())}, nullptr, key_, {});
    return client->GetRun({}, {.timeout = absl::Seconds(20)}).status();
  }

  NodeKey key_;
};

TEST_F(HttpFleetClientTest, OlderServerIsNamedWithOurVersion) {
  EXPECT_THAT(Outcome("HTTP/1.1 404 Not Found\r\nServer: old/1.0\r\nContent-Length: 0\r\n\r\n"),
              StatusIs(absl::StatusCode::kUnimplemented,
                       AllOf(HasSubstr("old/1.0"), HasSubstr("/v1/fleet/get-run"),
                             HasSubstr("fedumm "), HasSubstr("Flower 1.40"))));
}

TEST_F(HttpFleetClientTest, ErrorsOfAnyFormAreSurvived) {
  for (const char* body :
       {"", "null", "[1]", "\"x\"", "{\"detail\": 7, \"code\": \"x\"}",
        "{\"detail\": {}, \"code\": 99999999999999999999}", "<html>", "{\"detail"}) {
    EXPECT_THAT(Outcome(absl::StrCat("HTTP/1.1 503 Busy\r\nContent-Length: ",
                                     std::string(body).size(), "\r\n\r\n", body)),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("HTTP status 503")))
        << body;
  }
}

TEST_F(HttpFleetClientTest, AnswerThatIsNoProtobufIsAnError) {
  EXPECT_THAT(Outcome("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\xff\xff\xff"),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("get-run")));
  EXPECT_THAT(Outcome("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi"),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("text/html")));
}

TEST_F(HttpFleetClientTest, UnknownFieldsAreTolerated) {
  // Field 1000 of GetRunResponse does not exist.
  EXPECT_THAT(Outcome(absl::StrCat("HTTP/1.1 200 OK\r\nflwr-version-incompatibility-message: x\r\n"
                                   "Content-Length: 3\r\n\r\n\xc0\x3e\x01")),
              IsOk());
}

TEST_F(HttpFleetClientTest, CallsAreSignedAsFlowerSignsThem) {
  FakeFleet fleet;
  FakeFleetHttp server(fleet);
  const auto client =
      NewHttpFleetClient({.server = *HostPort::Parse(server.address())}, nullptr, key_, {});
  flwr::proto::RegisterNodeFleetRequest request;
  request.set_public_key("PEM");
  ASSERT_THAT(client->RegisterNode(request, {.timeout = absl::Seconds(20)}), IsOk());
  const std::string head = server.last_head();
  EXPECT_THAT(head, HasSubstr("POST /v1/fleet/register-node HTTP/1.1\r\n"));
  EXPECT_THAT(head, HasSubstr("\r\nContent-Type: application/protobuf\r\n"));
  EXPECT_THAT(head, HasSubstr(absl::StrCat("\r\nflwr-public-key: ",
                                           absl::Base64Escape(key_.public_key_pem()), "\r\n")));
  for (const char* name :
       {"flwr-timestamp: 20", "flwr-signature: ", "flwr-package-name: fedumm\r\n",
        "flwr-package-version: ", "flwr-component-name: SuperNode\r\n"}) {
    EXPECT_THAT(head, HasSubstr(absl::StrCat("\r\n", name)));
  }
}

// --- What a node does ---

enum class Outcome {
  kTriesAgain,    // the call is made again, and the message is answered
  kGoesOn,        // without that call's answer, and the message is answered
  kTellsServer,   // answers with an error: it cannot have the message, or deliver its reply
  kDropsMessage,  // and answers the next one
  kJoinsAgain,    // registers anew, and answers the next message
  kLeaves,        // RunSuperNode returns the error
};

struct NodeCase {
  std::string route;
  int status;
  Outcome outcome;
};
void PrintTo(const NodeCase& node_case, std::ostream* out) {
  *out << node_case.status << " to " << node_case.route;
}

class NodeStatusTest : public ::testing::TestWithParam<NodeCase> {};

TEST_P(NodeStatusTest, NodeActsAsTheTableSays) {
  const auto& [route, status, outcome] = GetParam();
  FakeFleet fleet;
  FakeFleetHttp server(fleet);
  server.Fail(route, {{status, 0}});
  ASSERT_OK_AND_ASSIGN(const NodeKey key, NodeKey::Generate());
  const auto client =
      NewHttpFleetClient({.server = *HostPort::Parse(server.address())}, nullptr, key, {});
  const bool of_heartbeat = route == "send-node-heartbeat";
  if (route == "register-node" && outcome == Outcome::kGoesOn) {  // it is registered already
    flwr::proto::RegisterNodeFleetRequest earlier;
    earlier.set_public_key("PEM");
    ASSERT_THAT(fleet.RegisterNode(earlier, {.timeout = absl::Seconds(1)}), IsOk());
  }
  const wire::DeflatedMessage first = fleet.Offer(Train(1));
  if (outcome != Outcome::kLeaves) fleet.Offer(Train(2));

  SuperNodeOptions options;
  options.linger = absl::ZeroDuration();
  NodeEnvironment environment;
  environment.wait = [](absl::Duration, const std::stop_token& stop) {
    return !stop.stop_requested();
  };
  std::atomic<int> beats = 0;
  environment.heartbeat_wait = [&](absl::Duration duration, const std::stop_token& stop) {
    return ++beats < 3 ? !stop.stop_requested() : WaitFor(duration, stop);
  };
  std::stop_source stop;
  const ClientApp app = EchoApp();
  std::future<absl::Status> node = std::async(std::launch::async, [&] {
    return RunNode(app, *client, "PEM", options, environment, stop.get_token());
  });
  if (outcome == Outcome::kLeaves) {
    EXPECT_THAT(node.get().message(), HasSubstr(absl::StrCat("HTTP status ", status)));
    return;
  }
  const Message reply = fleet.TakeReply();
  const bool of_first = reply.metadata.reply_to_message_id == first.message_id;
  if (of_heartbeat) {
    if (outcome == Outcome::kJoinsAgain) fleet.AwaitCalls("RegisterNode", 2);
    fleet.AwaitCalls("SendNodeHeartbeat", 2);
    EXPECT_EQ(fleet.num_calls("RegisterNode"), outcome == Outcome::kJoinsAgain ? 2 : 1);
  } else {
    EXPECT_EQ(of_first, outcome != Outcome::kDropsMessage && outcome != Outcome::kJoinsAgain);
    EXPECT_EQ(reply.error.has_value(), outcome == Outcome::kTellsServer);
    EXPECT_EQ(server.num_calls("register-node"),
              outcome == Outcome::kJoinsAgain                               ? 2
              : route == "register-node" && outcome == Outcome::kTriesAgain ? 2
                                                                            : 1);
  }
  EXPECT_GE(server.num_calls(route), outcome == Outcome::kTriesAgain ? 2 : 1);
  stop.request_stop();
  EXPECT_THAT(node.get(), IsOk());
}

std::vector<NodeCase> Table() {
  std::vector<NodeCase> table;
  const auto add = [&](const std::string& route, const std::vector<int>& statuses,
                       Outcome outcome) {
    for (const int status : statuses) table.push_back({route, status, outcome});
  };
  for (const char* route :
       {"register-node", "activate-node", "pull-messages", "get-run", "pull-object",
        "confirm-message-received", "push-messages", "push-object", "send-node-heartbeat"}) {
    add(route, {502, 503, 504, 429}, Outcome::kTriesAgain);
  }
  // At first contact every refusal is final; but a key may be registered already.
  add("register-node", {400, 401, 403, 404, 500}, Outcome::kLeaves);
  add("register-node", {412}, Outcome::kGoesOn);
  add("activate-node", {400, 401, 403, 404, 412, 500}, Outcome::kLeaves);
  // Later on a server that does not know the node is one that has forgotten it.
  for (const char* route : {"get-run", "pull-object", "confirm-message-received", "push-messages",
                            "push-object", "send-node-heartbeat"}) {
    add(route, {401, 412}, Outcome::kJoinsAgain);
  }
  add("pull-messages", {400, 403, 404, 500}, Outcome::kTriesAgain);
  add("send-node-heartbeat", {400, 403, 404, 500}, Outcome::kTriesAgain);
  add("get-run", {403}, Outcome::kDropsMessage);  // the run is over
  add("get-run", {400, 404, 500}, Outcome::kGoesOn);
  add("pull-object", {403}, Outcome::kDropsMessage);
  add("pull-object", {400, 404, 500}, Outcome::kTellsServer);
  add("confirm-message-received", {400, 403, 404, 500}, Outcome::kDropsMessage);
  for (const char* route : {"push-messages", "push-object"}) {
    add(route, {403}, Outcome::kDropsMessage);  // the run is over
    add(route, {400, 404, 500}, Outcome::kTellsServer);
  }
  return table;
}

INSTANTIATE_TEST_SUITE_P(All, NodeStatusTest, ::testing::ValuesIn(Table()), [](const auto& test) {
  std::string name = absl::StrCat(test.param.route, "_", test.param.status);
  for (char& letter : name) letter = letter == '-' ? '_' : letter;
  return name;
});

// --- Real Flower's answers ---

TEST(ReplayOverHttpTest, NodeAnswersBothRoundsOfFlower142) {
  std::map<std::string, std::deque<nlohmann::json>> recorded;
  absl::Time recorded_at;
  std::ifstream file(std::string(FEDUMM_TEST_DATA) + "/node/http-1.42-fleet.jsonl");
  for (std::string line; std::getline(file, line);) {
    auto exchange = nlohmann::json::parse(line);
    recorded_at = absl::FromUnixSeconds(static_cast<int64_t>(exchange.at("t").get<double>()));
    recorded[exchange.at("path").get<std::string>()].push_back(std::move(exchange));
  }
  Mutex mutex;
  std::stop_source stop;
  int num_replies = 0;
  RawServer server({.parallel = true}, [&](RawPeer& peer, int) {
    for (std::string request = peer.ReceiveRequest(); !request.empty();
         request = peer.ReceiveRequest()) {
      const std::string path = request.substr(5, request.find(" HTTP/1.1") - 5);
      const std::string body = request.substr(request.find("\r\n\r\n") + 4);
      const MutexLock lock(mutex);
      auto& exchanges = recorded[path];
      // Objects are asked for in another order than Flower's node did.
      flwr::proto::PullObjectRequest pull;
      if (absl::EndsWith(path, "/pull-object") && pull.ParseFromString(body)) {
        const auto is_same = [&](const nlohmann::json& exchange) {
          return absl::StrContains(absl::HexStringToBytes(exchange.at("body").get<std::string>()),
                                   pull.object_id());
        };
        std::stable_partition(exchanges.begin(), exchanges.end(), is_same);
      }
      if (absl::EndsWith(path, "/push-messages")) ++num_replies;
      if (absl::EndsWith(path, "/pull-messages") && exchanges.size() == 1) stop.request_stop();
      if (exchanges.empty()) {
        peer.Answer(500, R"({"detail":"Internal server error."})");
        continue;
      }
      const nlohmann::json exchange = exchanges.front();
      if (!absl::EndsWith(path, "/send-node-heartbeat")) exchanges.pop_front();
      std::string answer = absl::StrCat("HTTP/1.1 ", exchange.at("status").get<int>(), " OK\r\n");
      for (const auto& header : exchange.at("response_headers")) {
        absl::StrAppend(&answer, header.at(0).get<std::string>(), ": ",
                        header.at(1).get<std::string>(), "\r\n");
      }
      absl::StrAppend(&answer, "\r\n",
                      absl::HexStringToBytes(exchange.at("response_body").get<std::string>()));
      peer.Send(answer);
    }
  });
  ASSERT_OK_AND_ASSIGN(const NodeKey key, NodeKey::Generate());
  const auto client =
      NewHttpFleetClient({.server = *HostPort::Parse(server.address())}, nullptr, key, {});
  NodeEnvironment environment;
  environment.clock = [recorded_at] { return recorded_at; };
  environment.wait = [](absl::Duration, const std::stop_token& token) {
    return !token.stop_requested();
  };
  const ClientApp app = EchoApp();
  SuperNodeOptions options;
  EXPECT_THAT(RunNode(app, *client, key.public_key_pem(), options, environment, stop.get_token()),
              IsOk());
  const MutexLock lock(mutex);
  EXPECT_EQ(num_replies, 2);
  EXPECT_TRUE(recorded["/v1/fleet/deactivate-node"].empty());
  EXPECT_TRUE(recorded["/v1/fleet/unregister-node"].empty());
}

}  // namespace
}  // namespace fedumm::transport
