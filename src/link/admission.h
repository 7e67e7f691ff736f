#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "flwr/proto/node.pb.h"
#include "link/link_state.h"

namespace fedumm::link {

// Which keys may be nodes, as the operator of the server says; the calls of nodes are in Fleet.
// Thread-safe. Public keys are PEM or lines of OpenSSH's (base/ec_key.h).
class Admission {
 public:
  // `state` outlives the admission.
  explicit Admission(LinkState& state) : state_(state) {}

  // From now on these keys may join, in place of those of the last call; nodes that were registered
  // by name stay. A node whose key is removed gets UNAUTHENTICATED at its next call, is sent no
  // more messages, and its replies are rejected. INVALID_ARGUMENT, naming the entry, for one that
  // is no key, FAILED_PRECONDITION where any key may join: nothing has changed then.
  absl::Status AllowKeys(const std::vector<std::string>& public_keys);

  struct Enrolment {
    std::string public_key;
    std::optional<std::string> location;  // "latitude,longitude"
    std::optional<std::string> name;
  };
  // Registers a node that has not joined yet. INVALID_ARGUMENT for a text that is no key, or a name
  // that is too long; ALREADY_EXISTS for a key that is, or was, that of a node; UNAVAILABLE if the
  // registry is full.
  absl::StatusOr<uint64_t> RegisterNode(Enrolment enrolment);
  // Removes a node permanently, as AllowKeys does. NOT_FOUND if there is no such node.
  absl::Status UnregisterNode(uint64_t node);
  // All nodes, those that are unregistered included, ascending.
  std::vector<flwr::proto::NodeInfo> Nodes() const;

 private:
  LinkState& state_;
};

}  // namespace fedumm::link
