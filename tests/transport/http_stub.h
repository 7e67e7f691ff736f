#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "flwr/proto/fleet.pb.h"
#include "node/node_key.h"
#include "tests/transport/raw_client.h"

namespace fedumm {

// A bare client of the Fleet routes over HTTP: signs calls, and knows nothing of what they mean.
// All calls go through one connection.
class HttpStub {
 public:
  explicit HttpStub(int port) : key_(*NodeKey::Generate()), client_(port) {}

  static std::string Timestamp(absl::Time time = absl::Now()) {
    return absl::FormatTime("%Y-%m-%dT%H:%M:%E6S+00:00", time, absl::UTCTimeZone());
  }
  static std::string KeyHeader(const std::string& public_key) {
    return absl::StrCat("flwr-public-key: ", absl::Base64Escape(public_key), "\r\n");
  }
  // That the caller holds its key now.
  std::string Signature(const std::string& timestamp = Timestamp()) const {
    return absl::StrCat("flwr-timestamp: ", timestamp,
                        "\r\nflwr-signature: ", absl::Base64Escape(*key_.Sign(timestamp)), "\r\n");
  }
  std::string Signed() const { return KeyHeader(public_key()) + Signature(); }

  // `headers`: whole lines. The content type is added unless `type` is empty.
  bool Send(std::string_view call, std::string_view body, std::string_view headers,
            std::string_view type = "application/protobuf") {
    std::string text = absl::StrCat("POST /v1/fleet/", std::string(call),
                                    " HTTP/1.1\r\nHost: h\r\nContent-Length: ", body.size(), "\r\n",
                                    std::string(headers));
    if (!type.empty()) absl::StrAppend(&text, "content-type: ", std::string(type), "\r\n");
    absl::StrAppend(&text, "\r\n", std::string(body));
    bytes_sent += static_cast<int64_t>(text.size());
    return client_.Send(text);
  }
  RawClient::Answer Post(std::string_view call, std::string_view body, std::string_view headers,
                         std::string_view type = "application/protobuf") {
    Send(call, body, headers, type);
    return client_.ReadAnswer();
  }
  template <typename Request>
  RawClient::Answer Post(std::string_view call, const Request& request) {
    return Post(call, request.SerializeAsString(), Signed());
  }
  // The HTTP status; 0 for an answer that is no message of that type.
  template <typename Request, typename Response>
  int Call(std::string_view call, const Request& request, Response& response) {
    RawClient::Answer answer = Post(call, request);
    if (answer.status == 200 && (answer.headers["content-type"] != "application/protobuf" ||
                                 !response.ParseFromString(answer.body))) {
      return 0;
    }
    return answer.status;
  }

  int Register() {
    flwr::proto::RegisterNodeFleetRequest request;
    flwr::proto::RegisterNodeFleetResponse response;
    request.set_public_key(public_key());
    const int status = Call("register-node", request, response);
    node_id = response.node_id();
    return status;
  }
  int Activate(double interval = 30) {
    flwr::proto::ActivateNodeRequest request;
    flwr::proto::ActivateNodeResponse response;
    request.set_public_key(public_key());
    request.set_heartbeat_interval(interval);
    return Call("activate-node", request, response);
  }
  bool Join() { return Register() == 200 && Activate() == 200; }
  // A request of this node.
  template <typename Request>
  Request New(uint64_t run_id = 0) const {
    Request request;
    request.mutable_node()->set_node_id(node_id);
    if constexpr (requires { request.set_run_id(run_id); }) request.set_run_id(run_id);
    return request;
  }
  flwr::proto::PullMessagesResponse Pull() {
    flwr::proto::PullMessagesResponse response;
    Call("pull-messages", New<flwr::proto::PullMessagesRequest>(), response);
    return response;
  }

  const NodeKey& key() const { return key_; }
  const std::string& public_key() const { return key_.public_key_pem(); }
  RawClient& client() { return client_; }
  uint64_t node_id = 0;
  int64_t bytes_sent = 0;

 private:
  const NodeKey key_;
  RawClient client_;
};

}  // namespace fedumm
