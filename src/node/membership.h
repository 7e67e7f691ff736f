#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/caller.h"
#include "node/fleet_client.h"

namespace fedumm {

// What the server is told about the heartbeat: a node is lost after twice this time.
inline constexpr absl::Duration kHeartbeatInterval = absl::Seconds(30);

// The server does not know this node, or refuses it.
inline bool IsRefusal(const absl::Status& status) {
  return absl::IsUnauthenticated(status) || absl::IsNotFound(status) ||
         absl::IsFailedPrecondition(status);
}

// Registers and activates a key as a node of a server, and undoes both. Not thread-safe.
class Membership {
 public:
  struct Options {
    std::string public_key_pem;
    // The key outlives this process. It is never unregistered: it could not be used again.
    bool keeps_key = false;
    uint64_t seed = 0;  // of the back-off
    std::function<void(const std::string&)> on_event;
  };
  explicit Membership(Options options);

  // Registers and activates; returns the node id. A node that may have been active before, in this
  // process or with its key in another one, tries for as long as a server may still hold it
  // for online. Any other refusal is final.
  absl::StatusOr<uint64_t> Join(Caller& caller);
  // Deactivates and, unless the key is kept, unregisters, as far as the server can be reached.
  void Leave(Caller& caller);

 private:
  absl::StatusOr<uint64_t> TryJoin(Caller& caller);

  const Options options_;
  uint64_t node_id_ = 0;  // 0: not registered
  bool active_ = false;
};

}  // namespace fedumm
