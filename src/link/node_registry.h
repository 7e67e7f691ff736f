#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "fedumm/grid.h"
#include "fedumm/super_link.h"
#include "flwr/proto/node.pb.h"

namespace fedumm::link {

// Prefix of the name of a node that has no key. No key begins with it, so that such a node cannot
// act for one that signs.
inline constexpr std::string_view kKeyless = "keyless ";

// The node of a key: the same on every server that it joins, and after a restart of one.
uint64_t NodeIdOf(std::string_view public_key);

// Which keys are nodes, and which nodes are alive: registered -> online <-> offline ->
// unregistered. A node is online until twice its heartbeat interval has passed without a
// heartbeat. A key has one node id (NodeIdOf), but that of a keyless node's name is random. A key
// that was unregistered cannot come back. When the registry is full, nodes that registered
// themselves are evicted once their lease has ended: first those that were never online or have
// left, then those that were lost longest ago. Keys are PEM texts, of which a key has one
// (base/ec_key.h). Times are the caller's monotonic `now`, except `signed_at`: the node's own
// clock, which orders the calls of one node. Not thread-safe.
class NodeRegistry {
 public:
  struct Options {
    int64_t max_nodes = 200'000;
    // Only keys that an operator allowed or registered are nodes. Else any key registers itself.
    bool known_keys_only = false;
    std::function<absl::Time()> wall_clock = absl::Now;  // of what people are shown
  };
  explicit NodeRegistry(Options options) : options_(std::move(options)) {}

  // The operator's side.

  // These keys may join, in place of those of the last call. Keys that were registered by name
  // (Enrol) stay. Returns the nodes that are removed by it; their keys may be allowed again.
  std::vector<uint64_t> Allow(absl::flat_hash_set<std::string> public_keys, absl::Time now);
  struct Enrolment {
    std::string public_key;
    std::optional<std::string> location;
    std::optional<std::string> name;
  };
  // A node that has not joined yet. ALREADY_EXISTS for a key that is or was a node, UNAVAILABLE
  // when the registry is full.
  absl::StatusOr<uint64_t> Enrol(Enrolment enrolment, absl::Time now);
  // Removes a node permanently, also one that registered itself. NOT_FOUND if there is none.
  absl::Status Revoke(uint64_t node, absl::Time now);
  // All nodes, those that are unregistered included, ascending, as `flwr supernode list` shows
  // them.
  std::vector<flwr::proto::NodeInfo> Describe(absl::Time now) const;

  // The node's side.

  // The same key gets the same id again. FAILED_PRECONDITION for a key that was unregistered or may
  // not join, UNAVAILABLE when the registry is full.
  absl::StatusOr<uint64_t> Register(const std::string& public_key, absl::Time now);
  absl::Status CheckMayRegister(const std::string& public_key) const;
  // Whether the key may act for the node: its own, or one that Readmit would accept.
  // UNAUTHENTICATED if not.
  absl::Status CheckOwner(const std::string& public_key, uint64_t node) const;
  // Puts a node online that joined before this server started, as its id shows; such nodes know
  // nothing of a restart. Returns whether it was one. Errors of CheckOwner; UNAVAILABLE when full.
  absl::StatusOr<bool> Readmit(const std::string& public_key, uint64_t node, absl::Time now);
  // Puts the key's node online, registering it if it is allowed; if it is online already, the
  // caller takes over. FAILED_PRECONDITION for an unknown key, INVALID_ARGUMENT for an interval
  // (seconds) that Flower does not allow.
  absl::StatusOr<uint64_t> Activate(const std::string& public_key, double interval, absl::Time now,
                                    absl::Time signed_at = absl::InfinitePast());
  // The node must be known. INVALID_ARGUMENT as for Activate. No effect if it was signed before the
  // node deactivated.
  absl::Status Heartbeat(uint64_t node, double interval, absl::Time now,
                         absl::Time signed_at = absl::InfiniteFuture());
  // A pull that arrives after Deactivate puts the node back online: the deactivation came from the
  // previous process with the same key. Returns whether it did.
  bool ReactivateOnPull(uint64_t node, absl::Time now, absl::Time signed_at);
  // False, without effect, if the call was signed before the node's last activation: it came from
  // the previous process with the same key.
  bool Deactivate(uint64_t node, absl::Time now, absl::Time signed_at = absl::InfiniteFuture());
  // The key of a node that registered itself cannot be used again. FAILED_PRECONDITION for a node
  // that an operator registered: it goes offline and may come back.
  absl::Status Unregister(uint64_t node, absl::Time now);

  // The node of a key, if it may act.
  std::optional<uint64_t> Find(const std::string& public_key) const;
  // The key of a node that may act. Valid until the next call.
  std::optional<std::string_view> KeyOf(uint64_t node) const;
  bool IsRegistered(uint64_t node) const;
  bool IsOnline(uint64_t node, absl::Time now) const;
  std::vector<uint64_t> Online(absl::Time now) const;  // ascending
  std::vector<NodeStatus> List(absl::Time now) const;  // ascending, registered ones
  // When nothing can be expected of the node any more: at the end of its lease, because a node that
  // restarts comes back within it. In the past if it is unregistered, unknown or was never online.
  absl::Time GoneAt(uint64_t node) const;

  enum class Presence { kNever, kOffline, kOnline };
  // kNever for a node that was not online since the server started, or is not known.
  Presence PresenceOf(uint64_t node, absl::Time now) const;
  // Nodes whose lease is over, each once.
  std::vector<uint64_t> TakeLost(absl::Time now);
  absl::Time NextLeaseEnd() const;  // when TakeLost has more
  int64_t num_online() const { return static_cast<int64_t>(leases_.size()); }  // as of TakeLost
  // Where the node calls from, for log lines: host:port.
  void SetAddress(uint64_t node, const std::string& address);
  // " (key 0123456789ab, address)", for log lines.
  std::string Describe(uint64_t node) const;

  // Whether the node was sent a message since the server started.
  void MarkInstructed(uint64_t node);
  bool IsInstructed(uint64_t node) const;

  void CountTraffic(uint64_t node, int64_t bytes_up, int64_t bytes_down);
  Grid::Traffic Traffic(uint64_t node) const;

 private:
  struct Node {
    Enrolment enrolment;
    bool enrolled = false;     // by name
    uint64_t order = 0;        // of joining
    bool registered = true;    // false: permanently
    bool key_revoked = false;  // its key is no longer allowed
    bool active = false;
    bool instructed = false;
    std::string address;
    double interval = 0;
    absl::Time lease_end = absl::InfinitePast();
    absl::Time activation_signed_at = absl::InfinitePast();
    absl::Time deactivation_signed_at = absl::InfinitePast();
    // For people, wall time.
    absl::Time registered_at = absl::InfinitePast();
    absl::Time activated_at = absl::InfinitePast();
    absl::Time deactivated_at = absl::InfinitePast();
    absl::Time unregistered_at = absl::InfinitePast();
    Grid::Traffic traffic;

    bool MayAct() const { return registered && !key_revoked; }
    bool IsOnline(absl::Time now) const { return active && now < lease_end && MayAct(); }
  };

  bool MayRegister(const std::string& public_key) const;
  absl::StatusOr<uint64_t> Add(Enrolment enrolment, bool enrolled, absl::Time now);
  void EvictOneNode(absl::Time now);
  void RenewLease(uint64_t id, Node& node, double interval, absl::Time now);
  void SetLeaseEnd(Node& node, absl::Time lease_end);
  void End(Node& node, absl::Time now);

  const Options options_;
  absl::flat_hash_set<std::string> allowed_;
  absl::flat_hash_map<std::string, uint64_t> ids_;  // by key; unregistered keys stay
  std::map<uint64_t, Node> nodes_;
  // The nodes that may be evicted, by the ends of their leases (in the past for those that were
  // never online or have left) and the order of joining.
  std::map<std::pair<absl::Time, uint64_t>, uint64_t> evictable_;
  // The nodes that are online, or whose lease is over since TakeLost, likewise.
  std::map<std::pair<absl::Time, uint64_t>, uint64_t> leases_;
  uint64_t last_order_ = 0;
};

}  // namespace fedumm::link
