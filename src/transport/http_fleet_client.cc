#include "transport/http_fleet_client.h"

#include <algorithm>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "nlohmann/json.hpp"
#include "transport/call_signature.h"
#include "transport/http_client.h"
#include "wire/object_frame.h"

namespace fedumm::transport {
namespace {

constexpr int64_t kEnvelope = int64_t{1} << 20;   // of an answer, besides one object
constexpr int64_t kBodyBytes = int64_t{8} << 20;  // of many objects in one request or answer
constexpr int kVersionRefused = 1001;             // a Flower client exits on it

// An error answer of the server: "detail (code 2007)".
struct ServerError {
  std::string text;
  int code = 0;
};

ServerError ErrorOf(const HttpAnswer& answer) {
  constexpr size_t kMostBytes = 64 << 10;
  ServerError error = {.text = absl::StrCat("HTTP status ", answer.status)};
  if (answer.body.size() > kMostBytes) return error;
  const auto json = nlohmann::json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return error;
  const auto detail = json.find("detail");
  if (detail != json.end() && detail->is_string()) {
    absl::StrAppend(&error.text, ": ", Printable(detail->get_ref<const std::string&>()));
  }
  const auto code = json.find("code");
  if (code != json.end() && code->is_number_integer()) {
    error.code = code->get<int>();
    absl::StrAppend(&error.text, " (code ", error.code, ")");
  }
  return error;
}

absl::Status FailureOf(const HttpAnswer& answer, std::string_view path) {
  const ServerError error = ErrorOf(answer);
  if (error.code == kVersionRefused) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the server refuses the version of this node, fedumm " FEDUMM_VERSION ": ", error.text));
  }
  switch (answer.status) {
    case 400:
      return absl::InvalidArgumentError(error.text);
    case 401:
      return absl::UnauthenticatedError(error.text);
    case 403:
      return absl::PermissionDeniedError(error.text);
    case 404:
    case 405:
    case 415:
    case 501: {
      const std::string_view server = answer.Header("server");
      return absl::UnimplementedError(absl::StrCat(
          "the server", server.empty() ? "" : absl::StrCat(" (", Printable(Text(server)), ")"),
          " lacks ", Text(path),
          ", which fedumm " FEDUMM_VERSION " calls: it is no SuperLink of Flower 1.40 or newer: ",
          error.text));
    }
    case 408:
    case 429:
    case 502:
    case 503:
    case 504:
      return absl::UnavailableError(error.text);
    case 412:
      return absl::FailedPreconditionError(error.text);
    default:
      break;
  }
  if (answer.status / 100 == 3) {
    return absl::FailedPreconditionError(
        absl::StrCat("the server redirects, which is not followed: ", error.text, ", location ",
                     Printable(Text(answer.Header("location")))));
  }
  if (answer.status / 100 == 4) return absl::InvalidArgumentError(error.text);
  return absl::InternalError(error.text);
}

class HttpFleetClient final : public FleetClient {
 public:
  HttpFleetClient(Route route, const TlsClient* tls, const NodeKey& key, const Limits& limits)
      : key_(key),
        limits_(limits),
        client_(std::move(route), tls,
                {.max_body_bytes = std::max(limits.max_object_bytes, kBodyBytes) + kEnvelope}),
        headers_(absl::StrCat(
            "User-Agent: fedumm/" FEDUMM_VERSION
            "\r\nContent-Type: application/protobuf\r\nAccept: application/protobuf\r\n"
            "flwr-package-name: fedumm\r\nflwr-package-version: " FEDUMM_VERSION
            "\r\nflwr-component-name: SuperNode\r\nflwr-public-key: ",
            absl::Base64Escape(key.public_key_pem()), "\r\n")) {}

  absl::StatusOr<flwr::proto::RegisterNodeFleetResponse> RegisterNode(
      const flwr::proto::RegisterNodeFleetRequest& request, const CallOptions& options) override {
    return Call<flwr::proto::RegisterNodeFleetResponse>("register-node", request, options);
  }
  absl::StatusOr<flwr::proto::ActivateNodeResponse> ActivateNode(
      const flwr::proto::ActivateNodeRequest& request, const CallOptions& options) override {
    return Call<flwr::proto::ActivateNodeResponse>("activate-node", request, options);
  }
  absl::StatusOr<flwr::proto::DeactivateNodeResponse> DeactivateNode(
      const flwr::proto::DeactivateNodeRequest& request, const CallOptions& options) override {
    return Call<flwr::proto::DeactivateNodeResponse>("deactivate-node", request, options);
  }
  absl::StatusOr<flwr::proto::UnregisterNodeFleetResponse> UnregisterNode(
      const flwr::proto::UnregisterNodeFleetRequest& request, const CallOptions& options) override {
    return Call<flwr::proto::UnregisterNodeFleetResponse>("unregister-node", request, options);
  }
  absl::StatusOr<flwr::proto::SendNodeHeartbeatResponse> SendNodeHeartbeat(
      const flwr::proto::SendNodeHeartbeatRequest& request, const CallOptions& options) override {
    return Call<flwr::proto::SendNodeHeartbeatResponse>("send-node-heartbeat", request, options);
  }
  absl::StatusOr<flwr::proto::PullMessagesResponse> PullMessages(
      const flwr::proto::PullMessagesRequest& request, const CallOptions& options) override {
    return Call<flwr::proto::PullMessagesResponse>("pull-messages", request, options);
  }
  absl::StatusOr<flwr::proto::PushMessagesResponse> PushMessages(
      const flwr::proto::PushMessagesRequest& request, const CallOptions& options) override {
    return Call<flwr::proto::PushMessagesResponse>("push-messages", request, options);
  }
  absl::StatusOr<flwr::proto::GetRunResponse> GetRun(const flwr::proto::GetRunRequest& request,
                                                     const CallOptions& options) override {
    return Call<flwr::proto::GetRunResponse>("get-run", request, options);
  }
  absl::StatusOr<flwr::proto::GetFabResponse> GetFab(const flwr::proto::GetFabRequest& request,
                                                     const CallOptions& options) override {
    return Call<flwr::proto::GetFabResponse>("get-fab", request, options);
  }
  absl::StatusOr<flwr::proto::PushObjectResponse> PushObject(
      const flwr::proto::PushObjectRequest& request, const CallOptions& options) override {
    return Call<flwr::proto::PushObjectResponse>("push-object", request, options);
  }
  absl::StatusOr<flwr::proto::PullObjectResponse> PullObject(
      const flwr::proto::PullObjectRequest& request, const CallOptions& options) override {
    return Call<flwr::proto::PullObjectResponse>("pull-object", request, options);
  }
  absl::StatusOr<flwr::proto::ConfirmMessageReceivedResponse> ConfirmMessageReceived(
      const flwr::proto::ConfirmMessageReceivedRequest& request,
      const CallOptions& options) override {
    return Call<flwr::proto::ConfirmMessageReceivedResponse>("confirm-message-received", request,
                                                             options);
  }

  absl::Status PullObjects(const proto::PullObjectsRequest& request, const OnObject& on_object,
                           const CallOptions& options) override {
    const absl::Time deadline = absl::Now() + options.timeout;
    proto::PullObjectsRequest rest = request;
    while (rest.object_ids_size() > 0) {
      FEDUMM_ASSIGN_OR_RETURN(
          const std::string body,
          Exchange("/v1/fedumm/pull-objects", rest.SerializeAsString(),
                   {.timeout = deadline - absl::Now(), .cancel = options.cancel}));
      FEDUMM_ASSIGN_OR_RETURN(wire::ReceivedFrame frame, wire::ParseObjectFrame(body, limits_));
      if (frame.objects.empty()) break;  // the server has no object of them
      // Objects arrive in the order asked for; one that was left out is not there.
      const auto last =
          std::find(rest.object_ids().begin(), rest.object_ids().end(), frame.objects.back().id);
      if (last == rest.object_ids().end()) {
        return absl::DataLossError("the server sent an object unasked");
      }
      rest.mutable_object_ids()->erase(rest.object_ids().begin(), std::next(last));
      for (wire::ReceivedObject& object : frame.objects) {
        FEDUMM_RETURN_IF_ERROR(on_object(std::move(object.id), std::move(object.bytes)));
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<proto::PushObjectsResponse> PushObjects(const proto::PushObjectsRequest& sender,
                                                         std::span<const wire::Object> objects,
                                                         const CallOptions& options) override {
    const absl::Time deadline = absl::Now() + options.timeout;
    const std::string head = sender.SerializeAsString();
    proto::PushObjectsResponse total;
    while (!objects.empty()) {
      const std::span<const wire::Object> frame =
          objects.first(wire::NumInFrame(objects, kBodyBytes));
      objects = objects.subspan(frame.size());
      FEDUMM_ASSIGN_OR_RETURN(
          const std::string body,
          Exchange("/v1/fedumm/push-objects", wire::FormatFrame(head, frame),
                   {.timeout = deadline - absl::Now(), .cancel = options.cancel}));
      proto::PushObjectsResponse response;
      if (!response.ParseFromString(body)) {
        return absl::InternalError("the server's answer to push-objects is malformed");
      }
      total.set_num_stored(total.num_stored() + response.num_stored());
      total.set_refused_object_id(response.refused_object_id());
      if (!response.refused_object_id().empty()) break;
    }
    return total;
  }

 private:
  template <typename Response>
  absl::StatusOr<Response> Call(std::string_view route,
                                const google::protobuf::MessageLite& request,
                                const CallOptions& options) {
    FEDUMM_ASSIGN_OR_RETURN(
        const std::string body,
        Exchange(absl::StrCat("/v1/fleet/", Text(route)), request.SerializeAsString(), options));
    Response response;
    if (!response.ParseFromString(body)) {
      return absl::InternalError(
          absl::StrCat("the server's answer to ", Text(route), " is no ", response.GetTypeName()));
    }
    return response;
  }

  // The body of the answer.
  absl::StatusOr<std::string> Exchange(const std::string& path, const std::string& body,
                                       const CallOptions& options) {
    const Until until = Until::After(options.timeout, options.cancel);
    FEDUMM_ASSIGN_OR_RETURN(const CallSignature call, SignCall(key_));
    const std::string headers =
        absl::StrCat(headers_, "flwr-timestamp: ", call.timestamp,
                     "\r\nflwr-signature: ", absl::Base64Escape(call.signature), "\r\n");
    FEDUMM_ASSIGN_OR_RETURN(HttpAnswer answer, client_.Post(path, headers, body, until));
    LogWarning(answer.Header("flwr-version-incompatibility-message"));
    if (answer.status != 200) return FailureOf(answer, path);
    const std::string_view type = answer.Header("content-type");
    if (!type.empty() && !absl::StartsWithIgnoreCase(Text(type), "application/protobuf")) {
      return absl::InternalError(
          absl::StrCat("the answer to ", path, " is no protobuf but ", Printable(Text(type))));
    }
    return std::move(answer.body);
  }

  // A server may send the same warning with every answer: it is logged once.
  void LogWarning(std::string_view text) {
    if (text.empty()) return;
    MutexLock lock(mutex_);
    if (warning_ == text) return;
    warning_ = std::string(text);
    Log()->warn("version warning of the server: {}", Printable(Text(text)));
  }

  const NodeKey& key_;
  const Limits limits_;
  HttpClient client_;
  const std::string headers_;  // the same for all calls
  Mutex mutex_;
  std::string warning_ ABSL_GUARDED_BY(mutex_);  // the last one that was logged
};

}  // namespace

std::unique_ptr<FleetClient> NewHttpFleetClient(Route route, const TlsClient* tls,
                                                const NodeKey& key, const Limits& limits) {
  return std::make_unique<HttpFleetClient>(std::move(route), tls, key, limits);
}

}  // namespace fedumm::transport
