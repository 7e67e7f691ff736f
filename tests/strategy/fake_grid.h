#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "fedumm/client_app.h"
#include "fedumm/grid.h"

namespace fedumm::testing {

// A grid whose nodes answer at once, by a function, or never. Time does not pass in it: a pull of
// what will not come returns as if the deadline were over.
class FakeGrid final : public Grid {
 public:
  // Nothing: the node stays silent.
  using Node = std::function<std::optional<Message>(const Message& instruction)>;

  // A node that answers with this content (or error).
  using Reply = std::function<absl::StatusOr<RecordDict>(const Message& instruction)>;
  void AddNode(uint64_t node_id, Reply reply) {
    nodes[node_id] = [reply = std::move(reply)](const Message& instruction) {
      return MakeReply(instruction, reply(instruction), 0);
    };
  }

  uint64_t run_id() const override { return 9; }
  std::vector<uint64_t> NodeIds() override {
    std::vector<uint64_t> ids;
    for (const auto& [node_id, node] : nodes) ids.push_back(node_id);
    return ids;
  }
  absl::StatusOr<std::vector<uint64_t>> WaitForNodes(int64_t count, absl::Time) override {
    wanted_nodes.push_back(count);
    if (on_wait) on_wait();
    return NodeIds();
  }
  absl::StatusOr<std::vector<std::string>> PushMessages(std::vector<Message> messages) override {
    if (!push_status.ok()) return push_status;
    std::vector<std::string> ids;
    for (Message& message : messages) {
      const auto node = nodes.find(message.metadata.dst_node_id);
      ids.push_back(node == nodes.end() ? "" : absl::StrCat("m", sent.size()));
      message.metadata.run_id = run_id();
      message.metadata.src_node_id = kSuperLinkNodeId;
      message.metadata.message_id = ids.back();
      sent.push_back(message);
      if (node == nodes.end()) continue;
      if (std::optional<Message> reply = node->second(message)) replies_.push_back(*reply);
    }
    if (shuffle_seed) Random(*shuffle_seed, {++num_shuffles_}).Shuffle(replies_);
    return ids;
  }
  absl::StatusOr<std::vector<Message>> PullMessages(const std::vector<std::string>&,
                                                    absl::Time) override {
    return std::exchange(replies_, {});
  }
  void Withdraw(const std::vector<std::string>& message_ids) override {
    withdrawn.insert(withdrawn.end(), message_ids.begin(), message_ids.end());
  }
  Traffic NodeTraffic(uint64_t node_id) override {
    Traffic traffic;
    for (const Message& message : sent) {
      if (message.metadata.dst_node_id == node_id) traffic.bytes_down += 100;
    }
    return traffic;
  }

  std::map<uint64_t, Node> nodes;
  std::function<void()> on_wait;
  absl::Status push_status;
  std::optional<uint64_t> shuffle_seed;  // of the order of replies
  std::vector<Message> sent;
  std::vector<std::string> withdrawn;
  std::vector<int64_t> wanted_nodes;

 private:
  std::vector<Message> replies_;
  uint64_t num_shuffles_ = 0;
};

}  // namespace fedumm::testing
