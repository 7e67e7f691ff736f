#pragma once

#include <grpcpp/impl/service_type.h>

#include <memory>

#include "fedumm/limits.h"
#include "link/fleet.h"

namespace fedumm::transport {

// `fedumm.proto.Objects` over gRPC: all objects of a message in one stream. Objects leave the store
// and enter it without being copied by Protobuf; a reader that is slow makes the server wait, not
// grow. Thread-safe. `fleet` outlives the service.
std::unique_ptr<grpc::Service> NewObjectsService(link::Fleet& fleet, const Limits& limits);

}  // namespace fedumm::transport
