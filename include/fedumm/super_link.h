#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fedumm/grid.h"
#include "fedumm/limits.h"
#include "fedumm/record.h"

namespace fedumm {

struct SuperLinkOptions {
  std::string fleet_api_address = "127.0.0.1:0";  // port 0 picks a free one; see fleet_port()
  bool insecure = false;  // plaintext must be asked for; without it Start is FAILED_PRECONDITION
                          // (TLS is not built yet)
  absl::Duration max_pull_hold =
      absl::Seconds(10);  // how long an empty PullMessages may be held; 0 answers at once
  absl::Duration lease = absl::Seconds(
      60);  // a pulled message that is not confirmed by then is offered again to its node
  Limits limits;
  // Of signatures and messages. Leases and heartbeats run on the monotonic clock.
  std::function<absl::Time()> clock = absl::Now;
};

struct RunOptions {
  std::string fab_id = "fedumm/app";
  std::string fab_version = "1.0.0";
  ConfigRecord run_config;  // scalars only; nodes read it as the run's override_config
};

struct NodeStatus {
  uint64_t node_id = 0;
  bool online = false;
};

// A running Flower-compatible server (`flwr.proto.Fleet` over gRPC). Thread-safe. Destruction stops
// it and waits; grids must be gone by then.
class SuperLink {
 public:
  // INVALID_ARGUMENT for a bad address, UNAVAILABLE if it cannot be bound.
  static absl::StatusOr<std::unique_ptr<SuperLink>> Start(SuperLinkOptions options);
  ~SuperLink();

  int fleet_port() const;
  // A new running run. The grid borrows this SuperLink. Its destruction finishes the run: nodes are
  // told that it is over.
  absl::StatusOr<std::unique_ptr<Grid>> CreateRun(RunOptions options);
  std::vector<NodeStatus> Nodes() const;
  // Ends every wait: held pulls are answered, grids return CANCELLED. May be called from any
  // thread, any number of times.
  void Stop();

 private:
  class Impl;
  explicit SuperLink(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fedumm
