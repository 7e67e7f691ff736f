#pragma once

#include <memory>

#include "fedumm/limits.h"
#include "node/fleet_client.h"
#include "node/node_key.h"
#include "transport/connection.h"
#include "transport/tls_client.h"

namespace fedumm::transport {

// Flower's Fleet API as protobuf over HTTP/1.1 (Flower from 1.40). Signs every call with `key`.
// Connects when first called, and again when the server comes back. `tls` null: plaintext; it and
// `key` outlive the client.
std::unique_ptr<FleetClient> NewHttpFleetClient(Route route, const TlsClient* tls,
                                                const NodeKey& key, const Limits& limits);

}  // namespace fedumm::transport
