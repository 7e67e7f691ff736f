#pragma once

#include <cstdint>
#include <functional>

#include "link/control.h"
#include "link/runtime.h"
#include "transport/http_server.h"

namespace fedumm::transport {

inline constexpr char kControlPath[] = "/v1/control/";
inline constexpr char kRuntimePath[] = "/v1/runtime/";

struct AppHttpOptions {
  // Whether peers on other machines may run apps. There are no accounts: a peer that may call
  // Control or acquire tasks runs code here and on all nodes. If false, a request is refused that
  // comes from another machine, or from this one through a proxy or a web page.
  bool allow_remote_control = false;
};

// Both handlers serve POST <path><call>, protobuf both ways. Their arguments outlive them.
// Thread-safe.

// Called by `flwr run`, `flwr list` and the other commands of `flwr`.
HttpHandler NewControlHandler(link::Control& control, AppHttpOptions options);
// Called by flower-superexec and the ServerApps that it starts.
HttpHandler NewRuntimeHandler(link::Runtime& runtime, AppHttpOptions options);

// A ServerApp announces the messages of a round to all nodes in one request: about 40 KB for each
// node with 288 arrays. A peer that shows the token of a run may send as much as that takes, and
// objects of up to `max_object_bytes`; all others `usual`.
std::function<int64_t(const HttpRequest& head)> AppBodyLimit(link::Runtime& runtime, int64_t usual,
                                                             int64_t max_object_bytes);

}  // namespace fedumm::transport
