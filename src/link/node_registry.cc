#include "link/node_registry.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "link/fingerprint.h"
#include "link/random_id.h"
#include "link/runs.h"

namespace fedumm::link {
namespace {

constexpr double kMinInterval = 10;  // seconds; Flower's bounds
constexpr double kMaxInterval = 1800;
constexpr double kUsualInterval = 30;  // of Flower's nodes

absl::Status CheckInterval(double interval) {
  if (interval >= kMinInterval && interval <= kMaxInterval) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the heartbeat interval must be 10 to 1800 s: ", interval));
}

}  // namespace

uint64_t NodeIdOf(std::string_view public_key) {
  const uint64_t id = Fingerprint(public_key);
  return id > 1 ? id : id + 2;  // 0 and 1 are Flower's own
}

std::vector<uint64_t> NodeRegistry::Allow(absl::flat_hash_set<std::string> public_keys,
                                          absl::Time now) {
  allowed_ = std::move(public_keys);
  std::vector<uint64_t> turned_away;
  for (auto& [id, node] : nodes_) {
    const bool was_turned_away =
        std::exchange(node.turned_away, options_.known_keys_only && !node.enrolled &&
                                            !allowed_.contains(node.enrolment.public_key));
    if (!node.turned_away || was_turned_away) continue;
    End(node, now);
    turned_away.push_back(id);
  }
  return turned_away;
}

absl::StatusOr<uint64_t> NodeRegistry::Enrol(Enrolment enrolment, absl::Time now) {
  const auto it = ids_.find(enrolment.public_key);
  if (it == ids_.end()) return Add(std::move(enrolment), /*enrolled=*/true, now);
  Node& node = nodes_.at(it->second);
  if (node.MayAct() || !node.registered) {
    return absl::AlreadyExistsError(
        absl::StrCat("the key is in use, or was, by node ", it->second));
  }
  node.enrolment = std::move(enrolment);
  node.enrolled = true;
  node.turned_away = false;
  return it->second;
}

absl::Status NodeRegistry::Revoke(uint64_t node, absl::Time now) {
  const auto it = nodes_.find(node);
  if (it == nodes_.end() || !it->second.registered) {
    return absl::NotFoundError(absl::StrCat("there is no node ", node));
  }
  it->second.registered = false;
  it->second.unregistered_at = options_.wall_clock();
  End(it->second, now);
  forgettable_.erase({it->second.lease_end, it->second.order});
  return absl::OkStatus();
}

std::vector<flwr::proto::NodeInfo> NodeRegistry::Describe(absl::Time now) const {
  const absl::Time wall_now = options_.wall_clock();
  std::vector<flwr::proto::NodeInfo> infos;
  infos.reserve(nodes_.size());
  for (const auto& [id, node] : nodes_) {
    flwr::proto::NodeInfo info;
    const bool online = node.IsOnline(now);
    const bool was_active = node.activated_at != absl::InfinitePast();
    info.set_node_id(id);
    info.set_owner_aid(std::string(kNobodyId));
    info.set_owner_name(std::string(kNobody));
    info.set_status(!node.MayAct() ? "unregistered"
                    : online       ? "online"
                    : was_active   ? "offline"
                                   : "registered");
    info.set_registered_at(IsoTime(node.registered_at));
    info.set_heartbeat_interval(node.interval);
    info.set_public_key(node.enrolment.public_key);
    if (node.enrolment.location.has_value()) info.set_location(*node.enrolment.location);
    if (node.enrolment.name.has_value()) info.set_name(*node.enrolment.name);
    if (was_active) {
      info.set_last_activated_at(IsoTime(node.activated_at));
      // One that fell silent was there until its lease ended.
      const absl::Time until = wall_now + (node.lease_end - now);
      const absl::Time left = node.active ? until : node.deactivated_at;
      info.set_online_until(absl::ToDoubleSeconds((online ? until : left) - absl::UnixEpoch()));
      if (!online) info.set_last_deactivated_at(IsoTime(left));
    }
    if (!node.registered) info.set_unregistered_at(IsoTime(node.unregistered_at));
    infos.push_back(std::move(info));
  }
  return infos;
}

bool NodeRegistry::MayRegister(const std::string& public_key) const {
  return !options_.known_keys_only || allowed_.contains(public_key);
}

absl::Status NodeRegistry::CheckMayRegister(const std::string& public_key) const {
  if (const auto it = ids_.find(public_key); it != ids_.end()) {
    const Node& node = nodes_.at(it->second);
    if (node.MayAct()) return absl::OkStatus();
    if (!node.registered) {
      return absl::FailedPreconditionError(
          absl::StrCat("the key was unregistered, it belonged to node ", it->second));
    }
  }
  if (MayRegister(public_key)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "registration is closed: the key is not among those that the server allows");
}

absl::StatusOr<uint64_t> NodeRegistry::Register(const std::string& public_key, absl::Time now) {
  FEDUMM_RETURN_IF_ERROR(CheckMayRegister(public_key));
  if (const auto it = ids_.find(public_key); it != ids_.end()) return it->second;
  return Add({.public_key = public_key}, /*enrolled=*/false, now);
}

absl::Status NodeRegistry::CheckOwner(const std::string& public_key, uint64_t node) const {
  const auto it = ids_.find(public_key);
  const bool may_act = it != ids_.end() ? nodes_.at(it->second).MayAct()
                                        : NodeIdOf(public_key) == node && MayRegister(public_key);
  if (!may_act) return absl::UnauthenticatedError("the key is not registered");
  if (it == ids_.end() || it->second == node) return absl::OkStatus();
  return absl::UnauthenticatedError(absl::StrCat("the key is not that of node ", node));
}

absl::StatusOr<bool> NodeRegistry::Readmit(const std::string& public_key, uint64_t node,
                                           absl::Time now) {
  FEDUMM_RETURN_IF_ERROR(CheckOwner(public_key, node));
  if (ids_.contains(public_key)) return false;
  FEDUMM_RETURN_IF_ERROR(Add({.public_key = public_key}, /*enrolled=*/false, now).status());
  Node& entry = nodes_.at(node);
  Revive(node, entry, kUsualInterval, now);
  entry.activated_at = options_.wall_clock();
  return true;
}

void NodeRegistry::MakeRoom(absl::Time now) {
  const auto first = forgettable_.begin();
  if (first == forgettable_.end() || first->first.first > now) return;
  const auto it = nodes_.find(first->second);
  ids_.erase(it->second.enrolment.public_key);
  leases_.erase(first->first);
  nodes_.erase(it);
  forgettable_.erase(first);
}

absl::StatusOr<uint64_t> NodeRegistry::Add(Enrolment enrolment, bool enrolled, absl::Time now) {
  if (static_cast<int64_t>(ids_.size()) >= options_.max_nodes) MakeRoom(now);
  if (static_cast<int64_t>(ids_.size()) >= options_.max_nodes) {
    return absl::UnavailableError(absl::StrCat("no more nodes than ", options_.max_nodes));
  }
  const bool keyless = enrolment.public_key.starts_with(kKeyless);
  uint64_t id = keyless ? RandomId() : NodeIdOf(enrolment.public_key);
  while (keyless && nodes_.contains(id)) id = RandomId();
  if (nodes_.contains(id)) {
    return absl::FailedPreconditionError(absl::StrCat("another key has the node id ", id));
  }
  const auto& [at, added] = nodes_.emplace(id, Node{.enrolment = std::move(enrolment),
                                                    .enrolled = enrolled,
                                                    .order = ++last_order_,
                                                    .registered_at = options_.wall_clock()});
  const Node& node = at->second;
  ids_.emplace(node.enrolment.public_key, id);
  if (!enrolled && !options_.known_keys_only) {
    forgettable_.emplace(std::pair(node.lease_end, node.order), id);
  }
  return id;
}

absl::StatusOr<uint64_t> NodeRegistry::Activate(const std::string& public_key, double interval,
                                                absl::Time now, absl::Time signed_at) {
  FEDUMM_RETURN_IF_ERROR(CheckInterval(interval));
  std::optional<uint64_t> id = Find(public_key);
  if (!id.has_value()) {
    // A node with a key of its own may only activate, as Flower's do: its key must be known.
    if (!options_.known_keys_only)
      return absl::FailedPreconditionError("the key is not registered");
    FEDUMM_ASSIGN_OR_RETURN(id, Register(public_key, now));
  }
  Node& node = nodes_.at(*id);
  Revive(*id, node, interval, now);
  node.activation_signed_at = signed_at;
  node.deactivation_signed_at = absl::InfinitePast();
  node.activated_at = options_.wall_clock();
  return *id;
}

absl::Status NodeRegistry::Heartbeat(uint64_t node, double interval, absl::Time now,
                                     absl::Time signed_at) {
  FEDUMM_RETURN_IF_ERROR(CheckInterval(interval));
  const auto it = nodes_.find(node);
  if (it == nodes_.end() || !it->second.MayAct()) {
    return absl::UnauthenticatedError(absl::StrCat("node is unregistered: ", node));
  }
  if (it->second.active || signed_at > it->second.deactivation_signed_at) {
    Revive(node, it->second, interval, now);
  }
  return absl::OkStatus();
}

bool NodeRegistry::Pulls(uint64_t node, absl::Time now, absl::Time signed_at) {
  const auto it = nodes_.find(node);
  if (it == nodes_.end() || it->second.active) return false;
  if (now >= it->second.lease_end || signed_at <= it->second.deactivation_signed_at) return false;
  it->second.active = true;
  leases_.emplace(std::pair(it->second.lease_end, it->second.order), node);
  return true;
}

bool NodeRegistry::Deactivate(uint64_t node, absl::Time now, absl::Time signed_at) {
  const auto it = nodes_.find(node);
  if (it == nodes_.end() || signed_at < it->second.activation_signed_at) return false;
  it->second.deactivation_signed_at = signed_at;
  End(it->second, now);
  return true;
}

absl::Status NodeRegistry::Unregister(uint64_t node, absl::Time now) {
  const auto it = nodes_.find(node);
  if (it == nodes_.end()) return absl::OkStatus();
  Node& entry = it->second;
  End(entry, now);
  if (options_.known_keys_only || entry.enrolled) {
    return absl::FailedPreconditionError(
        absl::StrCat("an operator let node ", node, " in: it stays, and may come back"));
  }
  if (std::exchange(entry.registered, false)) {
    entry.unregistered_at = options_.wall_clock();
    SetLeaseEnd(entry, absl::InfinitePast());
  }
  return absl::OkStatus();
}

void NodeRegistry::Revive(uint64_t id, Node& node, double interval, absl::Time now) {
  node.active = true;
  node.interval = interval;
  leases_.erase({node.lease_end, node.order});
  SetLeaseEnd(node, now + 2 * absl::Seconds(interval));
  leases_.emplace(std::pair(node.lease_end, node.order), id);
}

void NodeRegistry::SetLeaseEnd(Node& node, absl::Time lease_end) {
  auto place = forgettable_.extract({node.lease_end, node.order});
  node.lease_end = lease_end;
  if (place.empty()) return;
  place.key().first = lease_end;
  forgettable_.insert(std::move(place));
}

void NodeRegistry::End(Node& node, absl::Time now) {
  if (!std::exchange(node.active, false)) return;
  leases_.erase({node.lease_end, node.order});
  // One that fell silent has been gone since its lease ended.
  node.deactivated_at =
      options_.wall_clock() + std::min(node.lease_end - now, absl::ZeroDuration());
}

std::optional<uint64_t> NodeRegistry::Find(const std::string& public_key) const {
  const auto it = ids_.find(public_key);
  if (it == ids_.end() || !IsRegistered(it->second)) return std::nullopt;
  return it->second;
}

std::optional<std::string_view> NodeRegistry::KeyOf(uint64_t node) const {
  const auto it = nodes_.find(node);
  if (it == nodes_.end() || !it->second.MayAct()) return std::nullopt;
  return it->second.enrolment.public_key;
}

bool NodeRegistry::IsRegistered(uint64_t node) const {
  const auto it = nodes_.find(node);
  return it != nodes_.end() && it->second.MayAct();
}

std::vector<uint64_t> NodeRegistry::Online(absl::Time now) const {
  std::vector<uint64_t> online;
  for (const auto& [id, node] : nodes_) {
    if (node.IsOnline(now)) online.push_back(id);
  }
  return online;
}

std::vector<NodeStatus> NodeRegistry::List(absl::Time now) const {
  std::vector<NodeStatus> list;
  for (const auto& [id, node] : nodes_) {
    if (node.MayAct()) list.push_back({.node_id = id, .online = node.IsOnline(now)});
  }
  return list;
}

bool NodeRegistry::IsOnline(uint64_t node, absl::Time now) const {
  const auto it = nodes_.find(node);
  return it != nodes_.end() && it->second.IsOnline(now);
}

absl::Time NodeRegistry::GoneAt(uint64_t node) const {
  return IsRegistered(node) ? nodes_.at(node).lease_end : absl::InfinitePast();
}

NodeRegistry::Presence NodeRegistry::PresenceOf(uint64_t node, absl::Time now) const {
  const auto it = nodes_.find(node);
  if (it == nodes_.end() || it->second.activated_at == absl::InfinitePast()) {
    return Presence::kNever;
  }
  return it->second.IsOnline(now) ? Presence::kOnline : Presence::kOffline;
}

std::vector<uint64_t> NodeRegistry::TakeLost(absl::Time now) {
  std::vector<uint64_t> lost;
  while (!leases_.empty() && leases_.begin()->first.first <= now) {
    lost.push_back(leases_.begin()->second);
    leases_.erase(leases_.begin());
  }
  return lost;
}

absl::Time NodeRegistry::NextLeaseEnd() const {
  return leases_.empty() ? absl::InfiniteFuture() : leases_.begin()->first.first;
}

void NodeRegistry::SetAddress(uint64_t node, const std::string& address) {
  const auto it = nodes_.find(node);
  if (it != nodes_.end() && !address.empty()) it->second.address = address;
}

std::string NodeRegistry::Describe(uint64_t node) const {
  const auto it = nodes_.find(node);
  if (it == nodes_.end()) return "";
  constexpr size_t kShown = 12;  // hexadecimal digits
  const std::string& key = it->second.enrolment.public_key;
  const std::string& address = it->second.address;
  return absl::StrCat(" (", key.starts_with(kKeyless) ? "no key" : "key ",
                      key.starts_with(kKeyless) ? "" : Sha256Hex(key).substr(0, kShown),
                      address.empty() ? "" : ", ", address, ")");
}

void NodeRegistry::MarkInstructed(uint64_t node) {
  if (const auto it = nodes_.find(node); it != nodes_.end()) it->second.instructed = true;
}

bool NodeRegistry::IsInstructed(uint64_t node) const {
  const auto it = nodes_.find(node);
  return it != nodes_.end() && it->second.instructed && it->second.MayAct();
}

void NodeRegistry::CountTraffic(uint64_t node, int64_t bytes_up, int64_t bytes_down) {
  const auto it = nodes_.find(node);
  if (it == nodes_.end()) return;
  it->second.traffic.bytes_up += static_cast<uint64_t>(bytes_up);
  it->second.traffic.bytes_down += static_cast<uint64_t>(bytes_down);
}

Grid::Traffic NodeRegistry::Traffic(uint64_t node) const {
  const auto it = nodes_.find(node);
  return it == nodes_.end() ? Grid::Traffic{} : it->second.traffic;
}

}  // namespace fedumm::link
