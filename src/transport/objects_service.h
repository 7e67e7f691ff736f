#pragma once

#include <grpcpp/impl/service_type.h>

#include <memory>

#include "fedumm/limits.h"
#include "link/fleet.h"

namespace fedumm::transport {

// `fedumm.proto.Objects` over gRPC: all objects of a message in one stream. Protobuf does not copy
// objects on their way from and to the store; for a slow reader the server waits and buffers
// nothing. Thread-safe. `fleet` outlives the service.
std::unique_ptr<grpc::Service> NewObjectsService(link::Fleet& fleet, const Limits& limits);

}  // namespace fedumm::transport
