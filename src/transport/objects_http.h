#pragma once

#include "fedumm/limits.h"
#include "link/fleet.h"
#include "transport/http_server.h"

namespace fedumm::transport {

inline constexpr char kObjectsPath[] = "/v1/fedumm/";

// Many objects in one request or answer, between our own peers: POST /v1/fedumm/pull-objects
// (PullObjectsRequest, answered by one ObjectFrame) and push-objects (PushObjectsRequest), see
// proto/fedumm/proto/objects.proto. The caller is in the headers, as for the Fleet API. An answer
// holds the first available objects of those asked for, up to 8 MiB, as they are stored; a peer
// asks again for the others. `fleet` outlives the handler. Thread-safe.
HttpHandler NewObjectsHandler(link::Fleet& fleet, const Limits& limits);

}  // namespace fedumm::transport
