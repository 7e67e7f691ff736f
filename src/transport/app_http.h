#pragma once

#include "link/control.h"
#include "link/runtime.h"
#include "transport/http_server.h"

namespace fedumm::transport {

inline constexpr char kControlPath[] = "/v1/control/";
inline constexpr char kRuntimePath[] = "/v1/runtime/";

struct AppHttpOptions {
  // Peers on other machines may run apps too. There are no accounts: whoever may call Control or
  // acquire tasks runs code here and on all nodes.
  bool allow_remote_control = false;
};

// Both handlers serve POST <path><call>, protobuf both ways. What they are given outlives them.
// Thread-safe.

// `flwr run`, `flwr list` and their like.
HttpHandler NewControlHandler(link::Control& control, AppHttpOptions options);
// flower-superexec and the ServerApps that it starts.
HttpHandler NewRuntimeHandler(link::Runtime& runtime, AppHttpOptions options);

}  // namespace fedumm::transport
