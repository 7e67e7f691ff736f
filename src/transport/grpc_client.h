#pragma once

#include <memory>
#include <string>

#include "fedumm/limits.h"
#include "node/fleet_client.h"
#include "node/node_key.h"

namespace fedumm {

// Flower's Fleet API over gRPC (`grpc-rere`), in plaintext. Signs every call with `key`, which
// outlives the client. Connects when first called, and again when the server comes back.
std::unique_ptr<FleetClient> NewGrpcFleetClient(const std::string& address, const NodeKey& key,
                                                const Limits& limits);

}  // namespace fedumm
