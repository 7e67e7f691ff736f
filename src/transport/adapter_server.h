#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "fedumm/limits.h"
#include "fedumm/tls.h"
#include "link/fleet.h"

namespace fedumm::transport {

// Serves a Fleet through Flower's tunnel, `flwr.proto.GrpcAdapter/SendReceive`. Its nodes are not
// authenticated, so it listens on loopback addresses only. A call never ends with a gRPC error,
// which would end the node: the fields of the response tell a temporary failure, and its metadata
// tells a node to exit. No pull is held. Thread-safe. Destruction ends all calls and waits.
class AdapterServer {
 public:
  struct Options {
    std::string address;           // host:port; port 0 picks a free one
    std::optional<ServerTls> tls;  // none: plaintext
    Limits limits;
  };
  // `fleet` outlives the server. INVALID_ARGUMENT for an address that is none or not loopback, or
  // certificates that cannot be used, UNAVAILABLE for an address that cannot be bound.
  static absl::StatusOr<std::unique_ptr<AdapterServer>> Start(link::Fleet& fleet, Options options);
  ~AdapterServer();

  int port() const;
  // Refuses new calls and waits for running ones, which it ends after two seconds.
  void Shutdown();

 private:
  class Impl;
  explicit AdapterServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fedumm::transport
