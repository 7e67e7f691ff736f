#include "transport/fleet_http.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "flwr/proto/fleet.pb.h"
#include "google/protobuf/io/coded_stream.h"
#include "transport/http_routes.h"
#include "transport/objects_http.h"
#include "wire/object.h"
#include "wire/value_count.h"

namespace fedumm::transport {
namespace {

using link::Caller;
using link::Fleet;

constexpr absl::Duration kLongestHold = absl::Seconds(25);
constexpr int64_t kAnswerHeadBytes = 80;  // about
// A body over this uploads one object: it has few fields.
constexpr size_t kLargeBodyBytes = size_t{24} << 20;
constexpr int64_t kMaxLargeBodyValues = 100;

// Flower's error codes.
constexpr int kKeyInUse = 23;
constexpr int kRegistrationDisabled = 2001;
constexpr int kUnregistrationDisabled = 2002;
constexpr int kInvalidInterval = 2003;
constexpr int kActivationFailed = 2004;
constexpr int kDeactivationFailed = 2005;
constexpr int kUnregistrationFailed = 2006;
constexpr int kRunNotRunning = 2007;
constexpr int kGetRunFailed = 2008;
constexpr int kGetFabFailed = 2009;

// The error code of a call for each kind of refusal.
struct Codes {
  int precondition = 0;
  int argument = kInvalidProtobuf;
  int permission = kRunNotRunning;
};

// A stock node exits on any status but these and 503, often without a message, so all other
// failures ask it to try again.
HttpResponse ToResponse(const absl::Status& status, const Codes& codes) {
  const absl::string_view message = status.message();
  const std::string_view detail(message.data(), message.size());
  switch (status.code()) {
    case absl::StatusCode::kUnauthenticated:
      return ErrorResponse(401, std::nullopt,
                           absl::StrCat("Invalid SuperNode authentication: ", message));
    case absl::StatusCode::kPermissionDenied:
      return ErrorResponse(403, codes.permission, detail);
    case absl::StatusCode::kFailedPrecondition:
      if (codes.precondition == 0) break;
      return ErrorResponse(412, codes.precondition, detail);
    case absl::StatusCode::kInvalidArgument:
      return ErrorResponse(400, codes.argument, detail);
    default:
      break;
  }
  return ErrorResponse(503, std::nullopt, detail);
}

// Accepts standard base64 only: padded, in one line.
absl::StatusOr<std::string> Base64Header(const HttpRequest& request, std::string_view name) {
  const std::string_view text = request.Header(name);
  std::string bytes;
  if (!absl::Base64Unescape(Text(text), &bytes) || absl::Base64Escape(bytes) != Text(text)) {
    return absl::UnauthenticatedError(absl::StrCat("the header ", Text(name), " is not base64"));
  }
  return bytes;
}

template <typename Request, typename Response>
uint64_t NodeOf(const Request& request, const Response& response) {
  if constexpr (requires { request.node(); }) {
    return request.node().node_id();
  } else if constexpr (requires { request.node_id(); }) {
    return request.node_id();
  } else {
    return response.node_id();
  }
}

int64_t SizeOf(const HttpResponse& response) {
  auto size = static_cast<int64_t>(response.body.size()) + kAnswerHeadBytes;
  for (const auto& segment : response.segments) size += static_cast<int64_t>(segment->size());
  return size;
}

template <typename Response>
HttpResponse ProtobufResponse(const Response& response) {
  return {.content_type = std::string(kProtobufType), .body = response.SerializeAsString()};
}

// PullObjectResponse with the object's bytes as they are stored.
HttpResponse ObjectResponse(wire::ObjectBytes bytes) {
  HttpResponse response{.content_type = std::string(kProtobufType)};
  if (bytes == nullptr) return response;
  google::protobuf::io::StringOutputStream stream(&response.body);
  google::protobuf::io::CodedOutputStream out(&stream);
  out.WriteTag(8 * 1);  // object_found
  out.WriteVarint32(1);
  out.WriteTag(8 * 2);  // object_available
  out.WriteVarint32(1);
  out.WriteTag(8 * 3 + 2);  // object_content
  out.WriteVarint32(static_cast<uint32_t>(bytes->size()));
  response.segments.push_back(std::move(bytes));
  return response;
}

class FleetHandler : public std::enable_shared_from_this<FleetHandler> {
 public:
  FleetHandler(Fleet& fleet, FleetHttpOptions options)
      : fleet_(fleet),
        hold_(std::clamp(options.max_pull_hold, absl::ZeroDuration(), kLongestHold)) {
    const bool closed = options.enable_supernode_auth;
    Add("register-node", &Fleet::RegisterNode,
        {.precondition = closed ? kRegistrationDisabled : kKeyInUse});
    Add("activate-node", &Fleet::ActivateNode,
        {.precondition = kActivationFailed, .argument = kInvalidInterval});
    Add("deactivate-node", &Fleet::DeactivateNode, {.precondition = kDeactivationFailed});
    Add("unregister-node", &Fleet::UnregisterNode,
        {.precondition = closed ? kUnregistrationDisabled : kUnregistrationFailed});
    Add("send-node-heartbeat", &Fleet::SendNodeHeartbeat, {.argument = kInvalidInterval});
    Add("get-run", &Fleet::GetRun, {.permission = kGetRunFailed});
    Add("get-fab", &Fleet::GetFab, {.permission = kGetFabFailed});
    Add("confirm-message-received", &Fleet::ConfirmMessageReceived, {});
    calls_["push-messages"] = [this](auto exchange) { PushMessages(std::move(exchange)); };
    calls_["push-object"] = [this](auto exchange) { PushObject(std::move(exchange)); };
    calls_["pull-object"] = [this](auto exchange) { PullObject(std::move(exchange)); };
    calls_["pull-messages"] = [this](auto exchange) { PullMessages(std::move(exchange)); };
  }

  void Serve(std::shared_ptr<HttpExchange> exchange) const {
    const HttpRequest& request = exchange->request();
    const std::string_view path = request.path;
    const auto call = path.starts_with(kFleetPath)
                          ? calls_.find(path.substr(std::string_view(kFleetPath).size()))
                          : calls_.end();
    if (call == calls_.end()) {
      exchange->Respond(ErrorResponse(404, std::nullopt, "Not Found"));
    } else if (request.method != "POST") {
      HttpResponse response = ErrorResponse(405, std::nullopt, "Method Not Allowed");
      response.headers = {{"allow", "POST"}};
      exchange->Respond(std::move(response));
    } else if (!IsProtobuf(request.Header("content-type"))) {
      exchange->Respond(ErrorResponse(415, kUnsupportedContentType, "Unsupported Content-Type."));
    } else {
      call->second(std::move(exchange));
    }
  }

 private:
  using Call = std::function<void(std::shared_ptr<HttpExchange>)>;

  // The caller and the request. If they cannot be read it answers the exchange and returns nothing.
  template <typename Request>
  std::optional<Caller> Decode(HttpExchange& exchange, Request& request) const {
    HttpRequest& http = exchange.request();
    const bool is_large = http.body.size() > kLargeBodyBytes;
    const bool may_parse =
        !is_large ||
        wire::CheckValueCount(*Request::descriptor(), http.body, kMaxLargeBodyValues).ok();
    if (!may_parse || !request.ParseFromString(http.body)) {
      exchange.Respond(ErrorResponse(400, kInvalidProtobuf, "Invalid protobuf payload."));
      return std::nullopt;
    }
    absl::StatusOr<Caller> caller = CallerOf(http);
    if (!caller.ok()) {
      exchange.Respond(ToResponse(caller.status(), {}));
      return std::nullopt;
    }
    return *std::move(caller);
  }

  template <typename Request, typename Response>
  void Add(const std::string& name,
           absl::StatusOr<Response> (Fleet::*rpc)(const Caller&, const Request&), Codes codes) {
    calls_[name] = [this, rpc, codes](const std::shared_ptr<HttpExchange>& exchange) {
      Request request;
      const std::optional<Caller> caller = Decode(*exchange, request);
      if (!caller.has_value()) return;
      const absl::StatusOr<Response> response = (fleet_.*rpc)(*caller, request);
      if (!response.ok()) {
        exchange->Respond(ToResponse(response.status(), codes));
        return;
      }
      Respond(*exchange, NodeOf(request, *response), ProtobufResponse(*response));
    };
  }

  // The request may have to wait for memory.
  void PushMessages(const std::shared_ptr<HttpExchange>& exchange) {
    flwr::proto::PushMessagesRequest request;
    const std::optional<Caller> caller = Decode(*exchange, request);
    if (!caller.has_value()) return;
    const uint64_t node = request.node().node_id();
    fleet_.AnnounceReply(*caller, std::move(request),
                         [self = shared_from_this(), exchange,
                          node](absl::StatusOr<flwr::proto::PushMessagesResponse> response) {
                           if (response.ok()) {
                             self->Respond(*exchange, node, ProtobufResponse(*response));
                           } else {
                             exchange->Respond(ToResponse(response.status(), {}));
                           }
                         });
  }

  void PushObject(const std::shared_ptr<HttpExchange>& exchange) const {
    flwr::proto::PushObjectRequest request;
    const std::optional<Caller> caller = Decode(*exchange, request);
    if (!caller.has_value()) return;
    const uint64_t node = request.node().node_id();
    const absl::StatusOr<flwr::proto::PushObjectResponse> response =
        fleet_.PushObject(*caller, std::move(request));
    if (response.ok()) {
      Respond(*exchange, node, ProtobufResponse(*response));
    } else {
      exchange->Respond(ToResponse(response.status(), {}));
    }
  }

  void PullObject(const std::shared_ptr<HttpExchange>& exchange) const {
    flwr::proto::PullObjectRequest request;
    const std::optional<Caller> caller = Decode(*exchange, request);
    if (!caller.has_value()) return;
    absl::StatusOr<wire::ObjectBytes> bytes = fleet_.FindObject(*caller, request);
    if (bytes.ok()) {
      Respond(*exchange, request.node().node_id(), ObjectResponse(*std::move(bytes)));
    } else {
      exchange->Respond(ToResponse(bytes.status(), {}));
    }
  }

  void PullMessages(const std::shared_ptr<HttpExchange>& exchange) {
    flwr::proto::PullMessagesRequest request;
    const std::optional<Caller> caller = Decode(*exchange, request);
    if (!caller.has_value()) return;
    const uint64_t node = request.node().node_id();
    const uint64_t ticket = ++last_ticket_;
    fleet_.PullMessages(*caller, request, hold_, ticket,
                        [self = shared_from_this(), exchange,
                         node](absl::StatusOr<flwr::proto::PullMessagesResponse> response) {
                          if (response.ok()) {
                            self->Respond(*exchange, node, ProtobufResponse(*response));
                          } else {
                            exchange->Respond(ToResponse(response.status(), {}));
                          }
                        });
    // A message that does not reach the node is offered again. Set after the pull, so that the pull
    // of a node that has disconnected already is ended.
    exchange->OnGone(
        [self = shared_from_this(), node, ticket] { self->fleet_.CancelPull(node, ticket); });
  }

  void Respond(HttpExchange& exchange, uint64_t node, HttpResponse response) const {
    const HttpRequest& request = exchange.request();
    fleet_.CountTraffic(node, request.head_bytes + static_cast<int64_t>(request.body.size()),
                        SizeOf(response));
    exchange.Respond(std::move(response));
  }

  Fleet& fleet_;
  const absl::Duration hold_;
  std::map<std::string, Call, std::less<>> calls_;
  // Other transports count from 0.
  std::atomic<uint64_t> last_ticket_ = uint64_t{1} << 63;
};

}  // namespace

absl::StatusOr<Caller> CallerOf(const HttpRequest& request) {
  Caller caller;
  FEDUMM_ASSIGN_OR_RETURN(caller.public_key, Base64Header(request, "flwr-public-key"));
  FEDUMM_ASSIGN_OR_RETURN(caller.signature, Base64Header(request, "flwr-signature"));
  caller.timestamp = request.Header("flwr-timestamp");
  caller.address = request.peer;
  return caller;
}

std::function<int64_t(const HttpRequest& head)> FleetBodyLimit(Fleet& fleet, int64_t usual) {
  return [&fleet, usual](const HttpRequest& head) {
    const bool uploads = head.path == absl::StrCat(kFleetPath, "push-object") ||
                         head.path == absl::StrCat(kObjectsPath, "push-objects");
    int64_t length = 0;
    if (!absl::SimpleAtoi(Text(head.Header("content-length")), &length)) {
      length = usual + 1;  // not known where the body is chunked
    }
    if (!uploads || length <= usual) return usual;
    const absl::StatusOr<Caller> caller = CallerOf(head);
    return caller.ok() ? std::max(usual, fleet.MaxUploadBytes(*caller, length)) : usual;
  };
}

HttpResponse FailureResponse(const absl::Status& status) { return ToResponse(status, {}); }

HttpHandler NewFleetHandler(link::Fleet& fleet, FleetHttpOptions options) {
  return [handler = std::make_shared<FleetHandler>(fleet, options)](
             std::shared_ptr<HttpExchange> exchange) { handler->Serve(std::move(exchange)); };
}

}  // namespace fedumm::transport
