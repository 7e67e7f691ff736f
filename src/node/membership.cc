#include "node/membership.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "fedumm/message.h"

namespace fedumm {
namespace {

// A server that missed the deactivation holds the node for online for two heartbeat intervals, and
// may refuse to activate the key until then.
constexpr absl::Duration kPatience = absl::Seconds(75);
constexpr absl::Duration kLongestPause = absl::Seconds(8);

}  // namespace

Membership::Membership(Options options) : options_(std::move(options)) {}

absl::StatusOr<uint64_t> Membership::Join(Caller& caller) {
  const bool was_active = std::exchange(active_, false);
  const absl::Time give_up = caller.Now() + kPatience;
  Backoff backoff(options_.seed, kLongestPause);
  while (true) {
    absl::StatusOr<uint64_t> joined = TryJoin(caller);
    // Of a key that never was here only the server's FAILED_PRECONDITION may pass: it is what
    // "still online" looks like.
    const bool may_pass = was_active
                              ? IsRefusal(joined.status())
                              : options_.keeps_key && absl::IsFailedPrecondition(joined.status());
    if (!may_pass || caller.Now() >= give_up) return joined;
    options_.on_event(absl::StrCat("the server does not take this node ",
                                   was_active ? "back yet" : "yet, perhaps for being online still",
                                   ", trying on for ", absl::ToInt64Seconds(give_up - caller.Now()),
                                   " s: ", Printable(joined.status().message())));
    FEDUMM_RETURN_IF_ERROR(caller.Wait(std::min(backoff.Next(), give_up - caller.Now())));
  }
}

absl::StatusOr<uint64_t> Membership::TryJoin(Caller& caller) {
  flwr::proto::RegisterNodeFleetRequest registration;
  registration.set_public_key(options_.public_key_pem);
  const auto registered = caller.Call(&FleetClient::RegisterNode, registration);
  if (registered.ok()) {
    node_id_ = registered->node_id();
  } else if (!absl::IsFailedPrecondition(registered.status())) {
    return registered.status();
  }  // else the key may be registered already, by a try of ours whose answer was lost: activation
     // tells

  flwr::proto::ActivateNodeRequest activation;
  activation.set_public_key(options_.public_key_pem);
  activation.set_heartbeat_interval(absl::ToDoubleSeconds(kHeartbeatInterval));
  const auto activated = caller.Call(&FleetClient::ActivateNode, activation);
  if (!activated.ok()) {
    active_ = absl::IsCancelled(activated.status());  // the server may have it: Leave takes it back
    return !registered.ok() && absl::IsFailedPrecondition(activated.status())
               ? registered.status()  // says more
               : activated.status();
  }
  if (activated->node_id() == 0 || activated->node_id() == kSuperLinkNodeId) {
    return absl::InternalError(
        absl::StrCat("the server gave out a reserved node id: ", activated->node_id()));
  }
  node_id_ = activated->node_id();
  active_ = true;
  return node_id_;
}

void Membership::Leave(Caller& caller) {
  constexpr absl::Duration kTimeout = absl::Milliseconds(400);
  if (node_id_ == 0) return;
  if (std::exchange(active_, false)) {
    flwr::proto::DeactivateNodeRequest deactivation;
    deactivation.set_node_id(node_id_);
    caller.Call(&FleetClient::DeactivateNode, deactivation, kTimeout).IgnoreError();
  }
  if (options_.keeps_key) return;
  flwr::proto::UnregisterNodeFleetRequest unregistration;
  unregistration.set_node_id(std::exchange(node_id_, 0));
  caller.Call(&FleetClient::UnregisterNode, unregistration, kTimeout).IgnoreError();
}

}  // namespace fedumm
