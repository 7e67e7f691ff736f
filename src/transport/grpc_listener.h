#pragma once

#include <grpcpp/impl/service_type.h>
#include <grpcpp/server.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/limits.h"
#include "fedumm/tls.h"

namespace fedumm::transport {

// What the gRPC servers of a SuperLink have in common: address, TLS and limits.
struct GrpcListenerOptions {
  std::string address;           // host:port; port 0 picks a free one
  std::optional<ServerTls> tls;  // none: plaintext
  Limits limits;
};
struct GrpcListener {
  std::unique_ptr<grpc::Server> server;  // ends its calls when it is destroyed
  int port = 0;

  // Refuses new calls and waits for running ones, which it ends after two seconds.
  void Shutdown() const;
};

// `services` outlive the listener. INVALID_ARGUMENT for an address that is none or certificates
// that cannot be used, UNAVAILABLE for an address that cannot be bound.
absl::StatusOr<GrpcListener> StartGrpcListener(const GrpcListenerOptions& options,
                                               const std::vector<grpc::Service*>& services);

}  // namespace fedumm::transport
