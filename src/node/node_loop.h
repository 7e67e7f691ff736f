#pragma once

#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "fedumm/client_app.h"
#include "fedumm/super_node.h"
#include "node/environment.h"
#include "node/fleet_client.h"

namespace fedumm {

// RunSuperNode over any transport: `public_key_pem` names the node, `fleet` signs with it.
// Everything borrowed outlives the call.
absl::Status RunNode(const ClientApp& app, FleetClient& fleet, std::string public_key_pem,
                     const SuperNodeOptions& options, const NodeEnvironment& environment,
                     std::stop_token stop);

}  // namespace fedumm
