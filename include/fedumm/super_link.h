#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fedumm/grid.h"
#include "fedumm/limits.h"
#include "fedumm/run.h"
#include "fedumm/tls.h"

namespace fedumm {

struct SuperLinkOptions {
  // Where peers connect: host:port, port 0 picks a free one, empty leaves that transport out. All
  // of them serve the same nodes and runs.
  std::string fleet_api_address = "127.0.0.1:0";  // Fleet over gRPC: nodes of Flower up to 1.39
  std::string http_address;  // Fleet, Control and Runtime over HTTP: nodes of Flower from 1.40,
                             // `flwr run`, flower-superexec
  // Fleet through Flower's grpc-adapter (NVIDIA FLARE). Its nodes are not authenticated: loopback
  // only.
  std::string grpc_adapter_address;
  std::optional<ServerTls> tls;  // of every transport
  bool insecure = false;  // plaintext must be asked for; without it and without `tls` Start is
                          // FAILED_PRECONDITION
  // Only nodes whose key was allowed or registered may join; see AllowKeys and RegisterNode. Wants
  // `tls`, and excludes the grpc-adapter.
  bool enable_supernode_auth = false;
  std::vector<std::string> allowed_keys;  // as by AllowKeys, before the first peer can call
  // Whether `flwr run` and its like are served on `http_address`, and to other machines too. There
  // are no accounts: whoever may run an app runs code on this machine's SuperExec and on all nodes.
  bool host_apps = false;
  bool allow_remote_control = false;
  absl::Duration max_pull_hold =
      absl::Seconds(10);  // how long an empty PullMessages may be held; 0 answers at once
  absl::Duration lease = absl::Seconds(
      60);  // a pulled message that is not confirmed by then is offered again to its node
  Limits limits;
  // What nodes do, for a program to print: a line when one joins, restarts, leaves, is lost (no
  // heartbeat came in time) or comes back. The logger "fedumm" has the same lines at level info.
  // Called from the server's threads, perhaps from several at a time; must not wait.
  std::function<void(const std::string& event)> on_event;
  // Of signatures and messages. Leases and heartbeats run on the monotonic clock.
  std::function<absl::Time()> clock = absl::Now;
};

struct NodeStatus {
  uint64_t node_id = 0;
  bool online = false;
};

// A running Flower-compatible server (`flwr.proto.Fleet` over gRPC). Thread-safe. Destruction stops
// it and waits; grids must be destroyed before.
class SuperLink {
 public:
  // INVALID_ARGUMENT for a bad address, UNAVAILABLE if it cannot be bound.
  static absl::StatusOr<std::unique_ptr<SuperLink>> Start(SuperLinkOptions options);
  ~SuperLink();

  // 0 for a transport that was left out.
  int fleet_port() const;
  int http_port() const;
  int grpc_adapter_port() const;
  // A new running run. The grid borrows this SuperLink. Its destruction finishes the run: nodes are
  // told that it is over.
  absl::StatusOr<std::unique_ptr<Grid>> CreateRun(RunOptions options);
  std::vector<NodeStatus> Nodes() const;

  // With `enable_supernode_auth`: from now on these public keys (PEM, or one line of OpenSSH's) may
  // join, in place of those of the last call. The node of a key that is no longer among them is
  // rejected at its next call. INVALID_ARGUMENT, naming the entry, for one that is no EC public
  // key: nothing has changed then.
  absl::Status AllowKeys(const std::vector<std::string>& public_keys);
  // As `flwr supernode register` and `unregister`. RegisterNode is for a node that has not joined
  // yet; a key that was unregistered cannot be used again.
  absl::StatusOr<uint64_t> RegisterNode(const std::string& public_key);
  absl::Status UnregisterNode(uint64_t node_id);

  // Ends every wait: held pulls are answered, grids return CANCELLED. May be called from any
  // thread, any number of times.
  void Stop();

 private:
  class Impl;
  explicit SuperLink(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fedumm
