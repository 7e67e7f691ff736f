#include "transport/objects_http.h"

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "fedumm/proto/objects.pb.h"
#include "link/object_streams.h"
#include "transport/fleet_http.h"
#include "transport/http_routes.h"
#include "wire/object_frame.h"

namespace fedumm::transport {
namespace {

using link::Fleet;

constexpr int64_t kAnswerBytes = int64_t{8} << 20;

absl::StatusOr<HttpResponse> PullObjects(Fleet& fleet, const HttpRequest& request) {
  FEDUMM_ASSIGN_OR_RETURN(const link::Caller caller, CallerOf(request));
  proto::PullObjectsRequest pull;
  if (!pull.ParseFromString(request.body)) {
    return absl::InvalidArgumentError("Invalid protobuf payload.");
  }
  FEDUMM_ASSIGN_OR_RETURN(link::ObjectPull objects, fleet.PullObjects(caller, pull));
  FEDUMM_ASSIGN_OR_RETURN(std::vector<wire::Object> frame, objects.Next(kAnswerBytes));
  HttpResponse response{.content_type = std::string(kProtobufType)};
  int64_t num_bytes = 0;
  for (wire::Object& object : frame) {
    auto prefix =
        std::make_shared<const std::string>(wire::ObjectPrefix(object.id, object.bytes->size()));
    num_bytes += static_cast<int64_t>(prefix->size() + object.bytes->size());
    response.segments.push_back(std::move(prefix));
    response.segments.push_back(std::move(object.bytes));
  }
  fleet.CountTraffic(pull.node_id(), request.head_bytes + static_cast<int64_t>(request.body.size()),
                     num_bytes);
  return response;
}

absl::StatusOr<HttpResponse> PushObjects(Fleet& fleet, const HttpRequest& request,
                                         const Limits& limits) {
  FEDUMM_ASSIGN_OR_RETURN(const link::Caller caller, CallerOf(request));
  FEDUMM_ASSIGN_OR_RETURN(wire::ReceivedFrame frame, wire::ParseObjectFrame(request.body, limits));
  FEDUMM_ASSIGN_OR_RETURN(
      link::ObjectPush push,
      fleet.PushObjects(caller, {frame.node_id, frame.run_id, std::move(frame.session_id)}));
  fleet.CountTraffic(frame.node_id, request.head_bytes + static_cast<int64_t>(request.body.size()),
                     0);
  for (wire::ReceivedObject& object : frame.objects) {
    FEDUMM_ASSIGN_OR_RETURN(const bool stored,
                            push.Add(std::move(object.id), std::move(object.bytes)));
    if (!stored) break;
  }
  return HttpResponse{.content_type = std::string(kProtobufType),
                      .body = push.response().SerializeAsString()};
}

}  // namespace

HttpHandler NewObjectsHandler(Fleet& fleet, const Limits& limits) {
  return [&fleet, limits](const std::shared_ptr<HttpExchange>& exchange) {
    const HttpRequest& request = exchange->request();
    std::string_view call = request.path;
    if (call.starts_with(kObjectsPath)) call.remove_prefix(std::string_view(kObjectsPath).size());
    if (request.method != "POST" || (call != "pull-objects" && call != "push-objects")) {
      exchange->Respond(ErrorResponse(404, std::nullopt, "Not Found"));
      return;
    }
    absl::StatusOr<HttpResponse> response =
        call == "pull-objects" ? PullObjects(fleet, request) : PushObjects(fleet, request, limits);
    exchange->Respond(response.ok() ? *std::move(response) : FailureResponse(response.status()));
  };
}

}  // namespace fedumm::transport
