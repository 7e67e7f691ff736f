#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/support/status.h>

#include <memory>

#include "absl/status/status.h"
#include "fedumm/limits.h"
#include "fedumm/tls.h"
#include "transport/proxy.h"

namespace fedumm::transport {

// A connection to a gRPC server. It connects at the first call and again when the server is back;
// through a tunnel (CONNECT) if the route has a proxy, whatever gRPC would take from the
// environment. `tls` null: plaintext.
std::shared_ptr<grpc::Channel> NewGrpcChannel(const Route& route, const ClientTls* tls,
                                              const Limits& limits);

// A call's outcome as FleetClient's codes. A peer that fails the TLS checks is FAILED_PRECONDITION:
// trying again would not help.
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace fedumm::transport
