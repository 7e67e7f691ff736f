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
  // Peers on other machines may run apps too. There are no accounts: whoever may call Control or
  // acquire tasks runs code here and on all nodes. Else a request is refused that comes from
  // elsewhere, or through something on this machine that lets others in: a proxy, a web page.
  bool allow_remote_control = false;
};

// Both handlers serve POST <path><call>, protobuf both ways. What they are given outlives them.
// Thread-safe.

// `flwr run`, `flwr list` and their like.
HttpHandler NewControlHandler(link::Control& control, AppHttpOptions options);
// flower-superexec and the ServerApps that it starts.
HttpHandler NewRuntimeHandler(link::Runtime& runtime, AppHttpOptions options);

// A ServerApp announces the messages of a round to all nodes in one request: about 40 KB for each
// node where 288 arrays travel. Who shows the token of a run may send as much as that takes, and
// objects of up to `max_object_bytes`; all others `usual`.
std::function<int64_t(const HttpRequest& head)> AppBodyLimit(link::Runtime& runtime, int64_t usual,
                                                             int64_t max_object_bytes);

}  // namespace fedumm::transport
