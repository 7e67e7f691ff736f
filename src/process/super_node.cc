#include "fedumm/super_node.h"

#include <algorithm>
#include <optional>
#include <random>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "node/environment.h"
#include "node/node_key.h"
#include "node/node_loop.h"
#include "transport/discovery.h"
#include "wire/protobuf_log.h"

namespace fedumm {
namespace {

// A tunnel belongs to a job: the node exits when the tunnel is unreachable for longer.
constexpr absl::Duration kMaxTunnelOutage = absl::Minutes(1);

}  // namespace

absl::Status RunSuperNode(const ClientApp& app, SuperNodeOptions options, std::stop_token stop) {
  FEDUMM_ASSIGN_OR_RETURN(const NodeKey key, options.private_key.empty()
                                                 ? NodeKey::Generate()
                                                 : NodeKey::Parse(options.private_key));
  FEDUMM_ASSIGN_OR_RETURN(const auto fleet,
                          transport::Discovery::Create(
                              {.server = options.superlink,
                               .transport = options.transport,
                               .tls = options.insecure ? std::nullopt : std::optional(options.tls),
                               .limits = options.limits,
                               .on_event = options.on_event},
                              key));
  wire::RedirectProtobufLog();
  FEDUMM_RETURN_IF_ERROR(fleet->LookOnce(stop));
  if (options.transport == Transport::kGrpcAdapter) {
    options.max_wait_time = std::min(options.max_wait_time, kMaxTunnelOutage);
  }
  const NodeEnvironment environment = {.seed = std::random_device()()};
  return RunNode(app, *fleet, key.public_key_pem(), options, environment, std::move(stop));
}

}  // namespace fedumm
