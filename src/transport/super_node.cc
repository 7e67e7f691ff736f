#include "fedumm/super_node.h"

#include <random>
#include <utility>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "node/environment.h"
#include "node/node_key.h"
#include "node/node_loop.h"
#include "transport/grpc_client.h"

namespace fedumm {

absl::Status RunSuperNode(const ClientApp& app, SuperNodeOptions options, std::stop_token stop) {
  if (!options.insecure) {
    return absl::FailedPreconditionError(
        "TLS is not built yet: set SuperNodeOptions::insecure to talk in plaintext");
  }
  FEDUMM_ASSIGN_OR_RETURN(const NodeKey key, NodeKey::Generate());
  const std::unique_ptr<FleetClient> fleet =
      NewGrpcFleetClient(options.superlink, nullptr, key, options.limits);
  const NodeEnvironment environment = {.seed = std::random_device()()};
  return RunNode(app, *fleet, key.public_key_pem(), options, environment, std::move(stop));
}

}  // namespace fedumm
