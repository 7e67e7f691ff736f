#include "link/node_registry.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "link/random_id.h"

namespace fedumm::link {
namespace {

constexpr double kMinInterval = 10;  // seconds; Flower's bounds
constexpr double kMaxInterval = 1800;

absl::Status CheckInterval(double interval) {
  if (interval >= kMinInterval && interval <= kMaxInterval) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the heartbeat interval must be 10 to 1800 s: ", interval));
}

}  // namespace

absl::StatusOr<uint64_t> NodeRegistry::Register(const std::string& public_key) {
  if (const auto it = ids_.find(public_key); it != ids_.end()) {
    if (nodes_.at(it->second).registered) return it->second;
    return absl::FailedPreconditionError(
        absl::StrCat("the key was unregistered, it belonged to node ", it->second));
  }
  if (static_cast<int64_t>(ids_.size()) >= max_nodes_) {
    return absl::UnavailableError(absl::StrCat("no more nodes than ", max_nodes_));
  }
  uint64_t id = RandomId();
  while (nodes_.contains(id)) id = RandomId();
  nodes_.try_emplace(id);
  ids_.emplace(public_key, id);
  return id;
}

absl::StatusOr<uint64_t> NodeRegistry::Activate(const std::string& public_key, double interval,
                                                absl::Time now) {
  FEDUMM_RETURN_IF_ERROR(CheckInterval(interval));
  const std::optional<uint64_t> id = Find(public_key);
  if (!id.has_value()) return absl::FailedPreconditionError("the key is not registered");
  FEDUMM_RETURN_IF_ERROR(Heartbeat(*id, interval, now));
  return *id;
}

absl::Status NodeRegistry::Heartbeat(uint64_t node, double interval, absl::Time now) {
  FEDUMM_RETURN_IF_ERROR(CheckInterval(interval));
  Node& entry = nodes_.at(node);
  if (!entry.registered) {
    return absl::UnauthenticatedError(absl::StrCat("node is unregistered: ", node));
  }
  entry.active = true;
  entry.lease_end = now + 2 * absl::Seconds(interval);
  return absl::OkStatus();
}

void NodeRegistry::Deactivate(uint64_t node) { nodes_.at(node).active = false; }

void NodeRegistry::Unregister(uint64_t node) {
  Node& entry = nodes_.at(node);
  entry.active = false;
  entry.registered = false;
}

std::optional<uint64_t> NodeRegistry::Find(const std::string& public_key) const {
  const auto it = ids_.find(public_key);
  if (it == ids_.end() || !IsRegistered(it->second)) return std::nullopt;
  return it->second;
}

bool NodeRegistry::IsRegistered(uint64_t node) const {
  const auto it = nodes_.find(node);
  return it != nodes_.end() && it->second.registered;
}

std::vector<uint64_t> NodeRegistry::Online(absl::Time now) const {
  std::vector<uint64_t> online;
  for (const auto& [id, node] : nodes_) {
    if (node.active && now < node.lease_end) online.push_back(id);
  }
  return online;
}

std::vector<NodeStatus> NodeRegistry::List(absl::Time now) const {
  std::vector<NodeStatus> list;
  for (const auto& [id, node] : nodes_) {
    if (node.registered) {
      list.push_back({.node_id = id, .online = node.active && now < node.lease_end});
    }
  }
  return list;
}

absl::Time NodeRegistry::GoneAt(uint64_t node) const {
  return IsRegistered(node) ? nodes_.at(node).lease_end : absl::InfinitePast();
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
