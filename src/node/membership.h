#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/caller.h"
#include "node/fleet_client.h"

namespace fedumm {

// What the server is told about the heartbeat: it counts a node as gone after twice this time.
inline constexpr absl::Duration kHeartbeatInterval = absl::Seconds(30);

// The server has forgotten this node, or turns it away.
inline bool IsRefusal(const absl::Status& status) {
  return absl::IsUnauthenticated(status) || absl::IsNotFound(status) ||
         absl::IsFailedPrecondition(status);
}

// A key's place among the nodes of a server: registered, active, and gone again. Not thread-safe.
class Membership {
 public:
  struct Options {
    std::string public_key_pem;
    bool keeps_key = false;  // outlives this process: never unregistered, which would burn it
    uint64_t seed = 0;       // of the back-off
    std::function<void(const std::string&)> on_event;
  };
  explicit Membership(Options options);

  // Registers and activates; returns the node id. A node that may have been active before, in this
  // process or with its key in another one, tries on for as long as a server may take it for online
  // still. Any other refusal is final.
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
