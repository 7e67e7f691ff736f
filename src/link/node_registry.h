#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fedumm/grid.h"
#include "fedumm/super_link.h"

namespace fedumm::link {

// Which keys are nodes, and which nodes are alive: registered -> online <-> offline ->
// unregistered. A node is online until twice its heartbeat interval has passed without a
// heartbeat. A key keeps its node id for ever, and a key that was unregistered cannot come back.
// Times are the caller's monotonic `now`. Not thread-safe.
class NodeRegistry {
 public:
  explicit NodeRegistry(int64_t max_nodes) : max_nodes_(max_nodes) {}

  // The same key gets the same id again. FAILED_PRECONDITION for a key that was unregistered,
  // UNAVAILABLE when the registry is full.
  absl::StatusOr<uint64_t> Register(const std::string& public_key);
  // Puts the key's node online; one that is online already is taken over. FAILED_PRECONDITION for
  // an unknown key, INVALID_ARGUMENT for an interval (seconds) that Flower does not allow.
  absl::StatusOr<uint64_t> Activate(const std::string& public_key, double interval, absl::Time now);
  // The node must be known. INVALID_ARGUMENT as for Activate.
  absl::Status Heartbeat(uint64_t node, double interval, absl::Time now);
  void Deactivate(uint64_t node);
  void Unregister(uint64_t node);

  // The registered node of a key.
  std::optional<uint64_t> Find(const std::string& public_key) const;
  bool IsRegistered(uint64_t node) const;
  std::vector<uint64_t> Online(absl::Time now) const;  // ascending
  std::vector<NodeStatus> List(absl::Time now) const;  // ascending, registered ones
  // When nothing can be expected of the node any more: at the end of its lease, because a node that
  // restarts comes back within it. In the past if it is unregistered, unknown or was never online.
  absl::Time GoneAt(uint64_t node) const;

  void CountTraffic(uint64_t node, int64_t bytes_up, int64_t bytes_down);
  Grid::Traffic Traffic(uint64_t node) const;

 private:
  struct Node {
    bool registered = true;
    bool active = false;
    absl::Time lease_end = absl::InfinitePast();
    Grid::Traffic traffic;
  };

  const int64_t max_nodes_;
  absl::flat_hash_map<std::string, uint64_t> ids_;  // by key; burned keys stay
  std::map<uint64_t, Node> nodes_;
};

}  // namespace fedumm::link
