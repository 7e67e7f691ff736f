// Control and Runtime over HTTP: statuses, streams, and a recorded session of Flower 1.42's `flwr`
// and ServerApp.
#include <gmock/gmock.h>

#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/sha256.h"
#include "fedumm/super_link.h"
#include "flwr/proto/control.pb.h"
#include "flwr/proto/log.pb.h"
#include "flwr/proto/runtime.pb.h"
#include "nlohmann/json.hpp"
#include "tests/testing/status_matchers.h"
#include "tests/transport/http_stub.h"
#include "wire/object.h"

namespace fedumm {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

// One peer of the server, on a connection of its own.
class AppClient {
 public:
  explicit AppClient(int port) : client_(port) {}

  void Send(const std::string& path, const std::string& body, const std::string& token = "",
            const std::string& type = "application/protobuf", const char* method = "POST") {
    client_.Send(absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: h\r\nContent-Type: ", type,
                              "\r\n", token.empty() ? "" : "flwr-task-token: ", token,
                              token.empty() ? "" : "\r\n", "Content-Length: ", body.size(),
                              "\r\n\r\n", body));
  }
  RawClient::Answer Post(const std::string& path, const std::string& body,
                         const std::string& token = "") {
    Send(path, body, token);
    return client_.ReadAnswer();
  }
  // The HTTP status; 0 for an answer that is no message of that type.
  template <typename Request, typename Response>
  int Call(const std::string& path, const Request& request, Response& response,
           const std::string& token = "") {
    const RawClient::Answer answer = Post(path, request.SerializeAsString(), token);
    if (answer.status == 200 && !response.ParseFromString(answer.body)) return 0;
    return answer.status;
  }
  RawClient& raw() { return client_; }

 private:
  RawClient client_;
};

int CodeOf(const RawClient::Answer& answer) {
  const auto json = nlohmann::json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
  return json.is_object() ? json.value("code", 0) : -1;
}

class AppHttpTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SuperLinkOptions options;
    options.fleet_api_address.clear();
    options.http_address = "127.0.0.1:0";
    options.insecure = true;
    options.host_apps = true;
    ASSERT_OK_AND_ASSIGN(link_, SuperLink::Start(options));
  }
  AppClient Client() { return AppClient(link_->http_port()); }
  uint64_t StartRun(AppClient& client) {
    flwr::proto::StartRunRequest request;
    request.mutable_fab()->set_content(*ReadFile(FEDUMM_TEST_DATA "/fab/mean-app.fab"));
    flwr::proto::StartRunResponse response;
    EXPECT_EQ(client.Call("/v1/control/start-run", request, response), 200);
    return response.run_id();
  }
  std::string Acquire(AppClient& client) {
    flwr::proto::AcquireTaskRequest request;
    request.add_supported_task_types("flwr-serverapp");
    flwr::proto::AcquireTaskResponse response;
    EXPECT_EQ(client.Call("/v1/runtime/acquire-task", request, response), 200);
    return response.token();
  }

  std::unique_ptr<SuperLink> link_;
};

TEST_F(AppHttpTest, ErrorsHaveFlowersStatusesAndCodes) {
  AppClient client = Client();
  EXPECT_EQ(client.Post("/v1/control/no-such-call", "").status, 404);
  EXPECT_EQ(client.Post("/v1/runtime/no-such-call", "").status, 404);
  client.Send("/v1/control/list-runs", "", "", "application/protobuf", "GET");
  EXPECT_EQ(client.raw().ReadAnswer().status, 405);
  client.Send("/v1/control/list-runs", "", "", "application/json");
  RawClient::Answer answer = client.raw().ReadAnswer();
  EXPECT_EQ(answer.status, 415);
  EXPECT_EQ(CodeOf(answer), 1002);
  answer = client.Post("/v1/control/list-runs", "\xff");
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(CodeOf(answer), 1003);

  flwr::proto::StopRunRequest stop;
  stop.set_run_id(12345);
  answer = client.Post("/v1/control/stop-run", stop.SerializeAsString());
  EXPECT_EQ(answer.status, 404);
  EXPECT_EQ(CodeOf(answer), 16);
  stop.set_run_id(StartRun(client));
  EXPECT_EQ(client.Post("/v1/control/stop-run", stop.SerializeAsString()).status, 200);
  answer = client.Post("/v1/control/stop-run", stop.SerializeAsString());
  EXPECT_EQ(answer.status, 412);
  EXPECT_EQ(CodeOf(answer), 18);
  answer = client.Post("/v1/control/start-run", "");
  EXPECT_EQ(answer.status, 412);
  EXPECT_EQ(CodeOf(answer), 15);
  answer = client.Post("/v1/control/register-node", "");
  EXPECT_EQ(answer.status, 412);
  EXPECT_EQ(CodeOf(answer), 22);
  answer = client.Post("/v1/control/unregister-node", "");
  EXPECT_EQ(answer.status, 404);
  EXPECT_EQ(CodeOf(answer), 24);

  for (const char* token : {"", "wrong"}) {
    answer = client.Post("/v1/runtime/get-nodes", "", token);
    EXPECT_EQ(answer.status, 401);
    EXPECT_EQ(CodeOf(answer), 1008);
    EXPECT_EQ(answer.body, R"({"code":1008,"detail":"Authentication failed."})");
  }
  StartRun(client);
  const std::string token = Acquire(client);
  answer = client.Post("/v1/runtime/push-messages", "", token);
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(CodeOf(answer), 3013);
  answer = client.Post("/v1/runtime/pull-object", "", token);
  EXPECT_EQ(answer.status, 412);
  EXPECT_EQ(CodeOf(answer), 3004);
}

TEST_F(AppHttpTest, ProxiesAndWebPagesRunNoApps) {
  AppClient client = Client();
  const auto status = [&](const std::string& path, const std::string& header) {
    client.raw().Send(absl::StrCat("POST ", path, " HTTP/1.1\r\nHost: h\r\n", header,
                                   "Content-Type: application/protobuf\r\n"
                                   "Content-Length: 0\r\n\r\n"));
    return client.raw().ReadAnswer().status;
  };
  for (const char* path : {"/v1/control/list-runs", "/v1/runtime/acquire-task"}) {
    EXPECT_EQ(status(path, ""), 200);
    for (const char* header :
         {"Origin: http://evil.example\r\n", "Sec-Fetch-Site: same-origin\r\n", "Via: 1.1 p\r\n",
          "Forwarded: for=192.0.2.1\r\n", "X-Forwarded-For: 192.0.2.1\r\n", "origin: \r\n"}) {
      EXPECT_EQ(status(path, header), 403) << path << " " << header;
    }
  }
  EXPECT_EQ(status("/v1/fleet/pull-messages", "Via: 1.1 p\r\n"), 401) << "nodes may use a proxy";
}

TEST_F(AppHttpTest, AGoodTokenMayAnnounceALargeRound) {
  AppClient client = Client();
  StartRun(client);
  const std::string token = Acquire(client);
  const std::string round(30 << 20, '\xff');  // no message, but read
  RawClient::Answer answer = client.Post("/v1/runtime/push-messages", round, token);
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(CodeOf(answer), 1003);
  const auto status = [&](const std::string& path, const std::string& with) {
    AppClient other = Client();
    other.raw().Send(absl::StrCat("POST ", path, " HTTP/1.1\r\nHost: h\r\nflwr-task-token: ", with,
                                  "\r\nContent-Length: ", round.size(), "\r\n\r\n"));
    return other.raw().ReadAnswer().status;
  };
  EXPECT_EQ(status("/v1/runtime/push-messages", std::string(256, '0')), 413);
  EXPECT_EQ(status("/v1/runtime/push-object", std::string(256, '0')), 413);
  EXPECT_EQ(status("/v1/runtime/push-logs", token), 413);
  answer = client.Post("/v1/runtime/push-object", round, token);
  EXPECT_EQ(answer.status, 400) << "as large as a value of an app may be";
}

TEST_F(AppHttpTest, LogsAreStreamedUntilTheRunEnds) {
  AppClient user = Client();
  AppClient app = Client();
  flwr::proto::StreamLogsRequest request;
  request.set_run_id(StartRun(user));
  const std::string token = Acquire(app);
  user.Send("/v1/control/stream-logs", request.SerializeAsString());
  EXPECT_EQ(app.Post("/v1/runtime/pull-task-input", "", token).status, 200);
  flwr::proto::PushLogsRequest logs;
  std::string text;
  for (int i = 0; i < 100; ++i) {
    logs.clear_logs();
    logs.add_logs(absl::StrCat("line ", i, "\n"));
    text += logs.logs(0);
    EXPECT_EQ(app.Post("/v1/runtime/push-logs", logs.SerializeAsString(), token).status, 200);
  }
  flwr::proto::PushTaskOutputRequest output;
  output.set_sub_status("completed");
  EXPECT_EQ(app.Post("/v1/runtime/push-task-output", output.SerializeAsString(), token).status,
            200);
  RawClient::Answer answer = user.raw().ReadAnswer();
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.headers["content-type"], "application/flower-protobuf-stream");
  std::string got;
  for (std::string_view rest = answer.body; rest.size() >= 4;) {
    size_t size = 0;
    for (int i = 0; i < 4; ++i) size = size << 8 | static_cast<unsigned char>(rest[i]);
    flwr::proto::StreamLogsResponse part;
    ASSERT_LE(size, rest.size() - 4);
    ASSERT_TRUE(part.ParseFromArray(rest.data() + 4, static_cast<int>(size)));
    got += part.log_output();
    rest.remove_prefix(4 + size);
  }
  EXPECT_EQ(got, text);

  // What was sent is not sent again; that of an unknown run is refused.
  user.Send("/v1/control/stream-logs", request.SerializeAsString());
  EXPECT_EQ(user.raw().ReadAnswer().status, 200);
  request.set_run_id(12345);
  EXPECT_EQ(user.Post("/v1/control/stream-logs", request.SerializeAsString()).status, 404);
}

TEST_F(AppHttpTest, ATaskGoesToTheExecutorThatIsStillThere) {
  AppClient user = Client();
  flwr::proto::AcquireTaskRequest request;
  request.add_supported_task_types("flwr-serverapp");
  AppClient gone = Client();
  gone.Send("/v1/runtime/acquire-task", request.SerializeAsString());
  gone.raw().Reset();
  StartRun(user);
  AppClient here = Client();
  EXPECT_THAT(Acquire(here), SizeIs(256));
}

TEST_F(AppHttpTest, AServerThatHostsNoAppsHasNoSuchRoutes) {
  SuperLinkOptions options;
  options.http_address = "127.0.0.1:0";
  options.insecure = true;
  ASSERT_OK_AND_ASSIGN(const auto link, SuperLink::Start(options));
  AppClient client(link->http_port());
  EXPECT_EQ(client.Post("/v1/control/list-runs", "").status, 404);
  EXPECT_EQ(client.Post("/v1/runtime/acquire-task", "").status, 404);
}

// The recorded session, said to our server in the same order: `flwr run --stream`, its SuperExec
// and ServerApp, `flwr list`, a second run and `flwr stop`. Ids, tokens and times are those of
// today.
class AppReplayTest : public AppHttpTest {
 protected:
  struct Exchange {
    std::string path;
    std::string body;
    int status = 0;
    std::string content_type;
    std::string response;
  };

  void SetUp() override {
    AppHttpTest::SetUp();
    node_.emplace(link_->http_port());
    ASSERT_TRUE(node_->Join());
    std::ifstream file(FEDUMM_TEST_DATA "/node/http-1.42-apps.jsonl");
    for (std::string line; std::getline(file, line);) {
      const auto json = nlohmann::json::parse(line);
      exchanges_.push_back(
          {.path = json["path"],
           .body = absl::HexStringToBytes(json["body"].get<std::string>()),
           .status = json["status"],
           .content_type = json["content_type"],
           .response = absl::HexStringToBytes(json["response_body"].get<std::string>())});
      const Exchange& exchange = exchanges_.back();
      if (exchange.path == "/v1/runtime/push-object") {
        const auto push = Parse<flwr::proto::PushObjectRequest>(exchange.body);
        objects_[push.object_id()] = push.object_content();
      } else if (exchange.path == "/v1/runtime/pull-object") {
        const auto pull = Parse<flwr::proto::PullObjectRequest>(exchange.body);
        objects_[pull.object_id()] =
            Parse<flwr::proto::PullObjectResponse>(exchange.response).object_content();
      }
    }
  }
  template <typename T>
  static T Parse(const std::string& bytes) {
    T message;
    EXPECT_TRUE(message.ParseFromString(bytes));
    EXPECT_THAT(message.GetReflection()->GetUnknownFields(message).field_count(), 0);
    return message;
  }

  // The message of a recorded root object, of today: between our node and our run. Remembers its
  // new id.
  std::string Renew(const std::string& old_id, const std::string& reply_to,
                    flwr::proto::Metadata& metadata) {
    const std::string& bytes = objects_.at(old_id);
    const auto view = wire::ParseObject(bytes, {});
    EXPECT_TRUE(view.ok());
    flwr::proto::Message message;
    EXPECT_TRUE(message.ParseFromArray(view->body.data(), static_cast<int>(view->body.size())));
    metadata = message.metadata();
    metadata.set_run_id(run_id_);
    (reply_to.empty() ? metadata.set_dst_node_id(node_->node_id)
                      : metadata.set_src_node_id(node_->node_id));
    metadata.set_reply_to_message_id(reply_to);
    metadata.set_created_at(absl::ToUnixMicros(absl::Now()) * 1e-6);
    if (!reply_to.empty()) metadata.set_ttl(metadata.ttl() - 60);
    *message.mutable_metadata() = metadata;
    std::string object = wire::FormatObject(
        "Message", {view->children.begin(), view->children.end()}, message.SerializeAsString());
    std::string id = Sha256Hex(object);
    metadata.set_message_id(id);
    objects_[id] = std::move(object);
    ids_[old_id] = id;
    return id;
  }
  std::string Today(const std::string& id) const {
    const auto it = ids_.find(id);
    return it == ids_.end() ? id : it->second;
  }

  // Our node answers its instruction as the recorded one did.
  void Answer(const flwr::proto::PullAppMessagesResponse& recorded) {
    flwr::proto::PullMessagesResponse pulled = node_->Pull();
    ASSERT_THAT(pulled.messages_list(), SizeIs(1));
    const std::string instruction = pulled.messages_list(0).metadata().message_id();
    auto push = node_->New<flwr::proto::PushMessagesRequest>();
    flwr::proto::Message& message = *push.add_messages_list();
    message.mutable_content();
    const std::string old_id = recorded.messages_list(0).metadata().message_id();
    const std::string id = Renew(old_id, instruction, *message.mutable_metadata());
    *push.add_message_object_trees() = recorded.message_object_trees(0);
    push.mutable_message_object_trees(0)->set_object_id(id);
    flwr::proto::PushMessagesResponse pushed;
    ASSERT_EQ(node_->Call("push-messages", push, pushed), 200);
    for (const std::string& object : pushed.objects_to_push()) {
      auto upload = node_->New<flwr::proto::PushObjectRequest>(run_id_);
      upload.set_object_id(object);
      upload.set_object_content(objects_.at(object));
      flwr::proto::PushObjectResponse stored;
      ASSERT_EQ(node_->Call("push-object", upload, stored), 200);
      ASSERT_TRUE(stored.stored());
    }
  }

  // The recorded request, of today.
  std::string Request(const Exchange& exchange) {
    const std::string call = exchange.path.substr(exchange.path.rfind('/') + 1);
    const auto of_run = [&](auto request) {
      request.set_run_id(run_id_);
      return request.SerializeAsString();
    };
    if (call == "stream-logs") return of_run(Parse<flwr::proto::StreamLogsRequest>(exchange.body));
    if (call == "stop-run") return of_run(Parse<flwr::proto::StopRunRequest>(exchange.body));
    if (call == "push-logs") return of_run(Parse<flwr::proto::PushLogsRequest>(exchange.body));
    if (call == "pull-object" || call == "push-object") {
      auto request = Parse<flwr::proto::PushObjectRequest>(exchange.body);
      request.set_object_id(Today(request.object_id()));
      if (call == "push-object") request.set_object_content(objects_.at(request.object_id()));
      request.set_session_id(call == "push-object" ? session_ : "");
      return of_run(request);
    }
    if (call == "confirm-message-received") {
      auto request = Parse<flwr::proto::ConfirmMessageReceivedRequest>(exchange.body);
      request.set_message_object_id(Today(request.message_object_id()));
      return of_run(request);
    }
    if (exchange.path == "/v1/runtime/push-messages") {
      auto request = Parse<flwr::proto::PushAppMessagesRequest>(exchange.body);
      const std::string id = Renew(request.message_object_trees(0).object_id(), "",
                                   *request.mutable_messages_list(0)->mutable_metadata());
      request.mutable_message_object_trees(0)->set_object_id(id);
      return request.SerializeAsString();
    }
    if (exchange.path == "/v1/runtime/pull-messages") {
      auto request = Parse<flwr::proto::PullAppMessagesRequest>(exchange.body);
      for (std::string& id : *request.mutable_message_ids()) id = Today(id);
      return request.SerializeAsString();
    }
    return exchange.body;
  }

  std::vector<Exchange> exchanges_;
  std::map<std::string, std::string> objects_;
  std::map<std::string, std::string> ids_;  // of messages, from recorded to today's
  std::optional<HttpStub> node_;
  uint64_t run_id_ = 0;
  std::string token_;
  std::string session_;
};

TEST_F(AppReplayTest, EachRecordedCallIsAnsweredAsItWas) {
  ASSERT_THAT(exchanges_, SizeIs(::testing::Ge(50)));
  AppClient client = Client();
  AppClient log_reader = Client();
  bool reads_logs = false;
  for (const Exchange& exchange : exchanges_) {
    SCOPED_TRACE(exchange.path);
    const std::string call = exchange.path.substr(exchange.path.rfind('/') + 1);
    const std::string request = Request(exchange);
    if (call == "stream-logs") {
      log_reader.Send(exchange.path, request);  // answered for as long as the run goes on
      reads_logs = true;
      continue;
    }
    if (call == "pull-messages" && !request.empty()) {
      ASSERT_NO_FATAL_FAILURE(
          Answer(Parse<flwr::proto::PullAppMessagesResponse>(exchange.response)));
    }
    const bool has_token = exchange.path.starts_with("/v1/runtime/") && call != "acquire-task";
    RawClient::Answer answer = client.Post(exchange.path, request, has_token ? token_ : "");
    ASSERT_EQ(answer.status, exchange.status) << answer.body;
    EXPECT_EQ(answer.headers["content-type"], exchange.content_type);
    if (answer.status != 200) {
      EXPECT_EQ(answer.body, exchange.response);
    } else if (call == "start-run") {
      const auto response = Parse<flwr::proto::StartRunResponse>(answer.body);
      EXPECT_EQ(response.federation(),
                Parse<flwr::proto::StartRunResponse>(exchange.response).federation());
      run_id_ = response.run_id();
    } else if (call == "acquire-task") {
      const auto response = Parse<flwr::proto::AcquireTaskResponse>(answer.body);
      const auto recorded = Parse<flwr::proto::AcquireTaskResponse>(exchange.response);
      EXPECT_EQ(response.task().run_id(), run_id_);
      EXPECT_EQ(response.task().fab_hash(), recorded.task().fab_hash());
      EXPECT_EQ(response.token().size(), recorded.token().size());
      token_ = response.token();
    } else if (call == "pull-task-input") {
      const auto response = Parse<flwr::proto::PullTaskInputResponse>(answer.body);
      const auto recorded = Parse<flwr::proto::PullTaskInputResponse>(exchange.response);
      EXPECT_EQ(response.fab().content(), recorded.fab().content());
      EXPECT_EQ(response.run().fab_id(), recorded.run().fab_id());
      EXPECT_EQ(response.run().fab_version(), recorded.run().fab_version());
      EXPECT_EQ(response.run().override_config().size(), recorded.run().override_config().size());
      EXPECT_EQ(response.run().primary_task_type(), recorded.run().primary_task_type());
    } else if (call == "get-nodes") {
      const auto response = Parse<flwr::proto::GetNodesResponse>(answer.body);
      ASSERT_THAT(response.nodes(), SizeIs(1));
      EXPECT_EQ(response.nodes(0).node_id(), node_->node_id);
    } else if (call == "push-messages") {
      const auto response = Parse<flwr::proto::PushAppMessagesResponse>(answer.body);
      const auto recorded = Parse<flwr::proto::PushAppMessagesResponse>(exchange.response);
      ASSERT_THAT(response.message_ids(), SizeIs(1));
      EXPECT_EQ(response.message_ids(0), Today(recorded.message_ids(0)));
      EXPECT_THAT(response.objects_to_push(), SizeIs(recorded.objects_to_push_size()));
      session_ = response.session_id();
    } else if (call == "pull-messages") {
      const auto response = Parse<flwr::proto::PullAppMessagesResponse>(answer.body);
      const auto recorded = Parse<flwr::proto::PullAppMessagesResponse>(exchange.response);
      ASSERT_THAT(response.messages_list(), SizeIs(recorded.messages_list_size()));
      if (recorded.messages_list().empty()) continue;
      EXPECT_EQ(response.messages_list(0).metadata().message_id(),
                Today(recorded.messages_list(0).metadata().message_id()));
    } else if (call == "pull-object") {
      const auto asked = Parse<flwr::proto::PullObjectRequest>(request);
      const auto response = Parse<flwr::proto::PullObjectResponse>(answer.body);
      EXPECT_TRUE(response.object_available());
      EXPECT_EQ(response.object_content(), objects_.at(asked.object_id()));
    } else if (call == "list-runs") {
      const auto response = Parse<flwr::proto::ListRunsResponse>(answer.body);
      ASSERT_TRUE(response.run_dict().contains(run_id_));
      EXPECT_EQ(response.run_dict().at(run_id_).status().sub_status(), "completed");
    } else {
      EXPECT_EQ(absl::BytesToHexString(answer.body), absl::BytesToHexString(exchange.response));
    }
  }
  ASSERT_TRUE(reads_logs);
  RawClient::Answer logs = log_reader.raw().ReadAnswer();
  EXPECT_EQ(logs.status, 200);
  EXPECT_THAT(logs.body, HasSubstr("Starting"));
}

}  // namespace
}  // namespace fedumm
