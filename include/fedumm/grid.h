#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fedumm/message.h"

namespace fedumm {

// What a ServerApp sends messages through: one run's view of the nodes. Thread-safe. A deadline is
// compared with the wall clock once, when it is given: no later step of that clock moves it.
// Implementations: a SuperLink's run, a simulation.
class Grid {
 public:
  virtual ~Grid() = default;

  virtual uint64_t run_id() const = 0;
  // Nodes that are online now, ascending.
  virtual std::vector<uint64_t> NodeIds() = 0;
  // NodeIds() as soon as at least `count` nodes are online, or what there is at `deadline`.
  // CANCELLED once the server is stopping. The default asks NodeIds() twenty times a second.
  virtual absl::StatusOr<std::vector<uint64_t>> WaitForNodes(int64_t count, absl::Time deadline);
  // Sends instructions; fills in run_id, src_node_id, created_at and message_id. One id for each
  // message, in order; "" for one that was refused (destination unknown). Messages that share
  // records share the stored objects.
  virtual absl::StatusOr<std::vector<std::string>> PushMessages(std::vector<Message> messages) = 0;
  // Replies to `message_ids` that are complete, each returned once. Waits until at least one is
  // there or `deadline` has passed (then: empty). An instruction that cannot be answered any more
  // (node lost, ttl passed) gives a reply with an error. CANCELLED once the server is stopping.
  virtual absl::StatusOr<std::vector<Message>> PullMessages(
      const std::vector<std::string>& message_ids, absl::Time deadline) = 0;
  // Withdraws instructions whose replies are not needed any more, and drops these.
  virtual void Withdraw(const std::vector<std::string>& message_ids) = 0;
  // Bytes that crossed the wire to and from a node so far; zeros where nothing does (simulation).
  struct Traffic {
    uint64_t bytes_down = 0;  // to the node
    uint64_t bytes_up = 0;    // from the node
  };
  virtual Traffic NodeTraffic(uint64_t node_id) = 0;

  // Pushes, then hands each reply to `on_reply` as it completes, until all are there, `timeout` has
  // passed or `on_reply` returns false (enough). Returns the error of PushMessages or PullMessages,
  // if any. Instructions without a reply are withdrawn.
  absl::Status SendAndReceive(std::vector<Message> messages, absl::Duration timeout,
                              const std::function<bool(Message reply)>& on_reply);
};

}  // namespace fedumm
