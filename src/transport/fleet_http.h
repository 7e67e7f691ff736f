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
  // Whether nodes may register only by their operator; names the reason of a refusal.
  bool enable_supernode_auth = false;
};

// Serves a Fleet to Flower's nodes from 1.40: POST /v1/fleet/<call>, protobuf both ways, the caller
// in headers. `fleet` outlives the handler and what it was given. Thread-safe.
HttpHandler NewFleetHandler(link::Fleet& fleet, FleetHttpOptions options);

// How long the body of a request may be, by its head: Fleet::MaxUploadBytes for those that upload
// objects, else `usual`. For HttpServer::Options::max_body_of.
std::function<int64_t(const HttpRequest& head)> FleetBodyLimit(link::Fleet& fleet, int64_t usual);

// For other calls of nodes: who the headers say is calling (UNAUTHENTICATED if they are no base64),
// and the answer to a call on objects that failed.
absl::StatusOr<link::Caller> CallerOf(const HttpRequest& request);
HttpResponse FailureResponse(const absl::Status& status);

}  // namespace fedumm::transport
