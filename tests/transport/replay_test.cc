// What a Flower node of 1.28, of 1.39 (gRPC) and of 1.42 (HTTP) said to its server in a recorded
// session, said to ours, in the same order. Ids, keys, times and signatures are those of today; the
// answers must have the shape of the recorded ones.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <fstream>
#include <map>
#include <set>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "base/sha256.h"
#include "fedumm/fab.h"
#include "fedumm/super_link.h"
#include "nlohmann/json.hpp"
#include "tests/testing/status_matchers.h"
#include "tests/transport/http_stub.h"
#include "tests/transport/stub_client.h"
#include "wire/object.h"

namespace fedumm {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Reflection;
using Stub = flwr::proto::Fleet::Stub;
using ::testing::IsSubsetOf;
using ::testing::SizeIs;

// The fields that are set, at any depth: "messages_list.metadata.run_id". Repeated ones once for
// each element.
void AddShape(const google::protobuf::Message& message, const std::string& prefix,
              std::multiset<std::string>& shape) {
  const Reflection& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const std::string path = prefix + field->name();
    const int count = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      shape.insert(path);
      if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
      AddShape(field->is_repeated() ? reflection.GetRepeatedMessage(message, field, i)
                                    : reflection.GetMessage(message, field),
               path + ".", shape);
    }
  }
}
std::multiset<std::string> ShapeOf(const google::protobuf::Message& message) {
  std::multiset<std::string> shape;
  AddShape(message, "", shape);
  return shape;
}

struct Substitution {
  std::map<uint64_t, uint64_t> numbers;
  std::map<std::string, std::string> texts;  // ids, keys and whole objects

  void Apply(google::protobuf::Message& message) const {
    const Reflection& reflection = *message.GetReflection();
    std::vector<const FieldDescriptor*> fields;
    reflection.ListFields(message, &fields);
    for (const FieldDescriptor* field : fields) {
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        for (int i = 0; field->is_repeated() && i < reflection.FieldSize(message, field); ++i) {
          Apply(*reflection.MutableRepeatedMessage(&message, field, i));
        }
        if (!field->is_repeated()) Apply(*reflection.MutableMessage(&message, field));
      } else if (field->is_repeated()) {
        continue;
      } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_UINT64) {
        const auto it = numbers.find(reflection.GetUInt64(message, field));
        if (it != numbers.end()) reflection.SetUInt64(&message, field, it->second);
      } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
        const auto it = texts.find(reflection.GetString(message, field));
        if (it != texts.end()) reflection.SetString(&message, field, it->second);
      }
    }
  }
};

class ReplayTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    std::ifstream file(std::string(FEDUMM_TEST_DATA) + "/node/" + GetParam());
    for (std::string line; std::getline(file, line);) {
      calls_.push_back(nlohmann::json::parse(line));
      if (IsHttp()) {
        calls_.back()["request"] = calls_.back()["body"];
        calls_.back()["response"] = calls_.back()["response_body"];
      }
      if (Method(calls_.back()) != "PushObject") continue;
      const auto request = Recorded<flwr::proto::PushObjectRequest>(calls_.back(), "request");
      pushed_objects_[request.object_id()] = request.object_content();
    }
    ASSERT_THAT(calls_, ::testing::Not(::testing::IsEmpty()));
    ASSERT_OK_AND_ASSIGN(link_, SuperLink::Start({.http_address = "127.0.0.1:0",
                                                  .insecure = true,
                                                  .max_pull_hold = absl::ZeroDuration()}));
    RunOptions options;
    ASSERT_OK_AND_ASSIGN(Fab fab, Fab::Load(FEDUMM_TEST_DATA "/fab/mean-app.fab"));
    options.fab = std::make_shared<const Fab>(std::move(fab));
    options.run_config.Set("num-server-rounds", int64_t{2});
    options.run_config.Set("train.steps", int64_t{1});
    ASSERT_OK_AND_ASSIGN(grid_, link_->CreateRun(options));
    if (IsHttp()) {
      http_.emplace(link_->http_port());
      public_key_ = http_->public_key();
    } else {
      grpc_.emplace(link_->fleet_port());
      public_key_ = grpc_->public_key();
    }
  }

  static bool IsHttp() { return std::string_view(GetParam()).starts_with("http"); }
  // "PushObject", which is push-object over HTTP.
  static std::string Method(const nlohmann::json& call) {
    const std::string path = call[IsHttp() ? "path" : "method"];
    std::string name;
    bool upper = IsHttp();
    for (const char c : path.substr(path.rfind('/') + 1)) {
      if (c != '-') name += upper ? absl::ascii_toupper(static_cast<unsigned char>(c)) : c;
      upper = c == '-';
    }
    return name;
  }
  // With the headers that the recorded node sent, but for those that prove who it was.
  template <typename Request, typename Response>
  grpc::Status CallHttp(const nlohmann::json& call, const Request& request, Response& response) {
    std::string headers = http_->Signed();
    for (const auto& header : call["headers"]) {
      const std::string name = absl::AsciiStrToLower(header[0].get<std::string>());
      if (name == "host" || name == "content-length" || name == "flwr-public-key" ||
          name == "flwr-timestamp" || name == "flwr-signature") {
        continue;
      }
      absl::StrAppend(&headers, header[0].get<std::string>(), ": ", header[1].get<std::string>(),
                      "\r\n");
    }
    const std::string path = call["path"];
    const RawClient::Answer answer = http_->Post(path.substr(path.rfind('/') + 1),
                                                 request.SerializeAsString(), headers, /*type=*/"");
    if (answer.status == 403) return {grpc::StatusCode::PERMISSION_DENIED, answer.body};
    if (answer.status != 200 || answer.headers.at("content-type") != "application/protobuf" ||
        !response.ParseFromString(answer.body)) {
      return {grpc::StatusCode::UNKNOWN, absl::StrCat(answer.status, ": ", answer.body)};
    }
    return grpc::Status::OK;
  }
  template <typename T>
  static T Recorded(const nlohmann::json& call, const char* what) {
    T message;
    EXPECT_TRUE(message.ParseFromString(absl::HexStringToBytes(call[what].get<std::string>())));
    return message;
  }

  template <typename Request, typename Response>
  void Replay(const nlohmann::json& call,
              grpc::Status (Stub::*rpc)(grpc::ClientContext*, const Request&, Response*)) {
    auto request = Recorded<Request>(call, "request");
    const auto recorded = Recorded<Response>(call, "response");
    Before(request, recorded);
    substitution_.Apply(request);
    Response response;
    const grpc::Status status =
        IsHttp() ? CallHttp(call, request, response) : grpc_->Call(rpc, request, response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    std::multiset<std::string> want = ShapeOf(recorded);
    std::multiset<std::string> got = ShapeOf(response);
    if constexpr (std::is_same_v<Response, flwr::proto::GetRunResponse>) {
      EXPECT_EQ(response.run().series_id(), response.run().run_id());
      for (const char* field : {"run.bytes_sent", "run.bytes_recv", "run.clientapp_runtime"}) {
        want.erase(field);  // nodes do not look at what a run has cost so far
      }
      EXPECT_THAT(want, IsSubsetOf(got));  // older servers knew fewer fields
    } else {
      want.erase("messages_list.metadata.src_task_id");  // our runs have no tasks
      if (recorded.GetDescriptor()->FindFieldByName("session_id") != nullptr) {
        want.erase("session_id");  // since 1.33
        EXPECT_EQ(got.erase("session_id"), 1);
      }
      EXPECT_EQ(got, want);
    }
    After(recorded, response);
  }

  template <typename Request, typename Response>
  void Before(const Request&, const Response&) {}
  void Before(const flwr::proto::RegisterNodeFleetRequest& request,
              const flwr::proto::RegisterNodeFleetResponse&) {
    substitution_.texts[request.public_key()] = public_key_;
  }
  // Where the recorded server had a message, ours gets one of the same make.
  void Before(const flwr::proto::PullMessagesRequest&,
              const flwr::proto::PullMessagesResponse& recorded) {
    if (recorded.messages_list().empty()) return;
    Message message;
    message.metadata.dst_node_id = node_id_;
    message.metadata.message_type = recorded.messages_list(0).metadata().message_type();
    message.metadata.group_id = recorded.messages_list(0).metadata().group_id();
    message.content.emplace();
    message.content->Set("arrays",
                         ArrayRecord{{"w", Array::FromFloats({2}, std::vector<float>{1, 2})}});
    message.content->Set("config", ConfigRecord{{"server-round", ++round_}});
    ASSERT_OK_AND_ASSIGN(const auto ids, grid_->PushMessages({message}));
    instructions_.insert(instructions_.end(), ids.begin(), ids.end());
  }
  // The root object of a reply holds ids and times, so today's is another one.
  void Before(flwr::proto::PushMessagesRequest& request, const flwr::proto::PushMessagesResponse&) {
    flwr::proto::Metadata& metadata = *request.mutable_messages_list(0)->mutable_metadata();
    metadata.set_created_at(absl::ToUnixNanos(absl::Now()) * 1e-9);
    metadata.set_ttl(600);
    const std::string old_id = metadata.message_id();
    const std::string& old_bytes = pushed_objects_.at(old_id);
    ASSERT_OK_AND_ASSIGN(const wire::ObjectView view, wire::ParseObject(old_bytes, {}));
    flwr::proto::Message body;
    ASSERT_TRUE(body.ParseFromArray(view.body.data(), static_cast<int>(view.body.size())));
    *body.mutable_metadata() = metadata;
    body.mutable_metadata()->clear_message_id();
    substitution_.Apply(body);
    const std::string bytes = wire::FormatObject(
        view.type, {view.children.begin(), view.children.end()}, body.SerializeAsString());
    substitution_.texts[old_id] = Sha256Hex(bytes);
    substitution_.texts[old_bytes] = bytes;
  }

  template <typename Response>
  void After(const Response&, const Response&) {}
  void After(const flwr::proto::RegisterNodeFleetResponse& recorded,
             const flwr::proto::RegisterNodeFleetResponse& response) {
    substitution_.numbers[recorded.node_id()] = node_id_ = response.node_id();
  }
  void After(const flwr::proto::GetRunResponse& recorded,
             const flwr::proto::GetRunResponse& response) {
    substitution_.texts[recorded.run().fab_hash()] = response.run().fab_hash();
  }
  void After(const flwr::proto::PullMessagesResponse& recorded,
             const flwr::proto::PullMessagesResponse& response) {
    if (recorded.messages_list().empty()) return;
    substitution_.numbers[recorded.messages_list(0).metadata().run_id()] = grid_->run_id();
    MapTree(recorded.message_object_trees(0), response.message_object_trees(0));
  }
  void After(const flwr::proto::PushMessagesResponse& recorded,
             const flwr::proto::PushMessagesResponse& response) {
    if (!recorded.session_id().empty()) {
      substitution_.texts[recorded.session_id()] = response.session_id();
    }
  }
  void After(const flwr::proto::PullObjectResponse& recorded,
             const flwr::proto::PullObjectResponse& response) {
    EXPECT_EQ(response.object_content().substr(0, response.object_content().find(' ')),
              recorded.object_content().substr(0, recorded.object_content().find(' ')));
  }
  void After(const flwr::proto::PushObjectResponse&,
             const flwr::proto::PushObjectResponse& response) {
    EXPECT_TRUE(response.stored());
  }
  void MapTree(const flwr::proto::ObjectTree& recorded, const flwr::proto::ObjectTree& ours) {
    substitution_.texts[recorded.object_id()] = ours.object_id();
    ASSERT_EQ(recorded.children_size(), ours.children_size());
    for (int i = 0; i < ours.children_size(); ++i) MapTree(recorded.children(i), ours.children(i));
  }

  std::vector<nlohmann::json> calls_;
  std::map<std::string, std::string> pushed_objects_;  // as recorded
  Substitution substitution_;
  std::unique_ptr<SuperLink> link_;
  std::unique_ptr<Grid> grid_;
  std::optional<StubClient> grpc_;
  std::optional<HttpStub> http_;
  std::string public_key_;
  uint64_t node_id_ = 0;
  std::vector<std::string> instructions_;
  int64_t round_ = 0;
};

TEST_P(ReplayTest, RecordedNodeIsServed) {
  for (const nlohmann::json& call : calls_) {
    const std::string method = Method(call);
    SCOPED_TRACE(method);
    if (method == "RegisterNode")
      Replay(call, &Stub::RegisterNode);
    else if (method == "ActivateNode")
      Replay(call, &Stub::ActivateNode);
    else if (method == "DeactivateNode")
      Replay(call, &Stub::DeactivateNode);
    else if (method == "UnregisterNode")
      Replay(call, &Stub::UnregisterNode);
    else if (method == "SendNodeHeartbeat")
      Replay(call, &Stub::SendNodeHeartbeat);
    else if (method == "PullMessages")
      Replay(call, &Stub::PullMessages);
    else if (method == "PushMessages")
      Replay(call, &Stub::PushMessages);
    else if (method == "GetRun")
      Replay(call, &Stub::GetRun);
    else if (method == "GetFab")
      Replay(call, &Stub::GetFab);
    else if (method == "PushObject")
      Replay(call, &Stub::PushObject);
    else if (method == "PullObject")
      Replay(call, &Stub::PullObject);
    else if (method == "ConfirmMessageReceived")
      Replay(call, &Stub::ConfirmMessageReceived);
    else
      FAIL() << "no such call";
    if (HasFatalFailure()) return;
  }
  ASSERT_OK_AND_ASSIGN(const std::vector<Message> replies,
                       grid_->PullMessages(instructions_, absl::InfinitePast()));
  ASSERT_THAT(replies, SizeIs(2));
  for (const Message& reply : replies) {
    ASSERT_TRUE(reply.content.has_value()) << reply.error->reason;
    EXPECT_THAT(*reply.content, SizeIs(2));
  }
  EXPECT_THAT(link_->Nodes(), SizeIs(0));
}

INSTANTIATE_TEST_SUITE_P(Versions, ReplayTest,
                         ::testing::Values("grpc-1.28-fleet.jsonl", "grpc-1.39-fleet.jsonl",
                                           "http-1.42-fleet.jsonl"));

}  // namespace
}  // namespace fedumm
