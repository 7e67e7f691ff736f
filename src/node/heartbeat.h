#pragma once

#include <cstdint>
#include <functional>
#include <stop_token>
#include <thread>

#include "node/environment.h"
#include "node/fleet_client.h"

namespace fedumm {

// Sends heartbeats for one node on a thread of its own, from construction to destruction, so that a
// node that trains for hours stays online. Calls `on_refused` once, from that thread, if the server
// no longer knows the node, and stops then. The client and the environment outlive it.
class Heartbeat {
 public:
  Heartbeat(FleetClient& fleet, const NodeEnvironment& environment, uint64_t node_id,
            std::function<void()> on_refused);

 private:
  void Run(const std::stop_token& stop);

  FleetClient& fleet_;
  const NodeEnvironment& environment_;
  const uint64_t node_id_;
  const std::function<void()> on_refused_;
  std::jthread thread_;  // last: it uses the others
};

}  // namespace fedumm
