#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "link/fleet.h"
#include "transport/http_server.h"

namespace fedumm::transport {

inline constexpr char kFleetPath[] = "/v1/fleet/";

struct FleetHttpOptions {
  // A node times out after 30 s, so no pull is held for more than 25 s.
  absl::Duration max_pull_hold = absl::Seconds(10);
  // Whether only the operator may register nodes; a refusal says so.
  bool enable_supernode_auth = false;
};

// Serves a Fleet to Flower's nodes from 1.40: POST /v1/fleet/<call>, protobuf both ways, the caller
// in headers. `fleet` outlives the handler and its exchanges. Thread-safe.
HttpHandler NewFleetHandler(link::Fleet& fleet, FleetHttpOptions options);

// The largest body of a request, by its head: Fleet::MaxUploadBytes for a node that uploads
// objects, else `usual`. For HttpServer::Options::max_body_of.
std::function<int64_t(const HttpRequest& head)> FleetBodyLimit(link::Fleet& fleet, int64_t usual);

// For other calls of nodes: the caller that the headers name (UNAUTHENTICATED if they are not
// base64), and the answer to a failed call on objects.
absl::StatusOr<link::Caller> CallerOf(const HttpRequest& request);
HttpResponse FailureResponse(const absl::Status& status);

}  // namespace fedumm::transport
