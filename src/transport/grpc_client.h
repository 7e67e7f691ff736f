#pragma once

#include <memory>

#include "fedumm/limits.h"
#include "fedumm/tls.h"
#include "node/fleet_client.h"
#include "node/node_key.h"
#include "transport/proxy.h"

namespace fedumm {

// Flower's Fleet API over gRPC (`grpc-rere`). Signs every call with `key`, which outlives the
// client. Connects when first called, and again when the server comes back. `tls` null: plaintext.
std::unique_ptr<FleetClient> NewGrpcFleetClient(const transport::Route& route, const ClientTls* tls,
                                                const NodeKey& key, const Limits& limits);

// The same calls through Flower's tunnel (`grpc-adapter`), unsigned. Once the server has told
// the node to exit, every call is ABORTED at once.
std::unique_ptr<FleetClient> NewGrpcAdapterFleetClient(const transport::Route& route,
                                                       const ClientTls* tls, const Limits& limits);

}  // namespace fedumm
