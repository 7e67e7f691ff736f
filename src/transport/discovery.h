#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/limits.h"
#include "fedumm/super_node.h"
#include "node/fleet_client.h"
#include "node/node_key.h"
#include "transport/proxy.h"

namespace fedumm::transport {

// Calls a server over the transport that it speaks: probes it before the first call, and again
// after it was unreachable, since it may be back as another version of Flower. A server that cannot
// be used is FAILED_PRECONDITION, in one line. Thread-safe.
class Discovery : public FleetClient {
 public:
  struct Options {
    std::string server;  // host:port
    Transport transport = Transport::kAuto;
    std::optional<ClientTls> tls;  // none: plaintext
    Limits limits;
    std::function<void(const std::string& event)> on_event;  // called from any calling thread
    Environment environment = ProcessEnvironment;            // where proxies are named
  };
  // INVALID_ARGUMENT for an address or PEM that is none, FAILED_PRECONDITION for a proxy that
  // cannot be used. `key` outlives the client.
  static absl::StatusOr<std::unique_ptr<Discovery>> Create(Options options, const NodeKey& key);

  // Probes the server now. OK also if it cannot be reached yet.
  virtual absl::Status LookOnce(std::stop_token cancel) = 0;
};

}  // namespace fedumm::transport
