#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fedumm/limits.h"
#include "fedumm/tls.h"
#include "link/fleet.h"

namespace fedumm::transport {

// Serves a Fleet over gRPC as `flwr.proto.Fleet`. Thread-safe. Destruction ends all calls and
// waits.
class GrpcServer {
 public:
  struct Options {
    std::string address;           // host:port; port 0 picks a free one
    std::optional<ServerTls> tls;  // none: plaintext
    absl::Duration max_pull_hold;
    Limits limits;
  };
  // `fleet` outlives the server. INVALID_ARGUMENT for an address that is none or certificates that
  // cannot be used, UNAVAILABLE for an address that cannot be bound.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(link::Fleet& fleet, Options options);
  ~GrpcServer();

  int port() const;
  // Refuses new calls and waits for running ones, which it ends after two seconds. The fleet was
  // stopped before, so that no call is held.
  void Shutdown();

 private:
  class Impl;
  explicit GrpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fedumm::transport
