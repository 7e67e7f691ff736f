#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "flwr/proto/fleet.pb.h"

namespace fedumm::link {

using PullDone = std::function<void(absl::StatusOr<flwr::proto::PullMessagesResponse>)>;

// Calls of PullMessages that wait for a message, at most one a node. Not thread-safe.
class HeldPulls {
 public:
  struct Pull {
    uint64_t ticket = 0;
    absl::Time until;
    PullDone done;
    std::string address;  // of the caller
  };

  // Returns the pull of the node that this one takes the place of.
  std::optional<Pull> Hold(uint64_t node, Pull pull) {
    std::optional<Pull> previous = Take(node);
    ends_.emplace(pull.until, node);
    pulls_.emplace(node, std::move(pull));
    return previous;
  }
  std::optional<Pull> Take(uint64_t node) {
    const auto it = pulls_.find(node);
    if (it == pulls_.end()) return std::nullopt;
    Pull pull = std::move(it->second);
    ends_.erase({pull.until, node});
    pulls_.erase(it);
    return pull;
  }
  // The node's pull, if it is this one.
  std::optional<Pull> Take(uint64_t node, uint64_t ticket) {
    const auto it = pulls_.find(node);
    if (it == pulls_.end() || it->second.ticket != ticket) return std::nullopt;
    return Take(node);
  }
  const Pull* Find(uint64_t node) const {
    const auto it = pulls_.find(node);
    return it == pulls_.end() ? nullptr : &it->second;
  }
  std::vector<uint64_t> Nodes() const {
    std::vector<uint64_t> nodes;
    for (const auto& [node, pull] : pulls_) nodes.push_back(node);
    return nodes;
  }
  absl::Time NextEnd() const {
    return ends_.empty() ? absl::InfiniteFuture() : ends_.begin()->first;
  }
  uint64_t NextNode() const { return ends_.begin()->second; }  // of NextEnd

 private:
  std::map<uint64_t, Pull> pulls_;  // by node
  std::set<std::pair<absl::Time, uint64_t>> ends_;
};

}  // namespace fedumm::link
