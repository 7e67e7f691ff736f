#pragma once

#include <cstdint>
#include <functional>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "fedumm/client_app.h"
#include "fedumm/limits.h"
#include "fedumm/record.h"
#include "fedumm/tls.h"

namespace fedumm {

// What carries the Fleet API.
enum class Transport {
  kAuto,         // finds out what the server speaks
  kGrpcRere,     // gRPC: Flower up to 1.39
  kGrpcAdapter,  // gRPC through Flower's tunnel, as under NVIDIA FLARE; nothing is authenticated
  kHttp,         // protobuf over HTTP/1.1: Flower from 1.40
};

struct SuperNodeOptions {
  std::string superlink = "127.0.0.1:9092";
  Transport transport = Transport::kAuto;
  bool insecure = false;  // plaintext must be asked for; `tls` is not used then
  ClientTls tls;
  // The node's identity: an EC private key (P-256, P-384 or P-521) in OpenSSH's form or PEM,
  // without a passphrase. Empty: a new key, which is registered at the start and unregistered at
  // the end. A node with a key of its own keeps its registration.
  std::string private_key;
  ConfigRecord node_config;
  int64_t max_retries = -1;  // consecutive failed tries before giving up; negative: no limit
  absl::Duration max_wait_time = absl::InfiniteDuration();  // likewise, time
  // How long a stopped node waits after its last reply before it deactivates, so that a server that
  // polls can fetch the reply. At most 1 s.
  absl::Duration linger = absl::Seconds(1);
  Limits limits;
  // Progress for a program to print or log; called from the node's threads.
  std::function<void(const std::string& event)> on_event;
};

// Runs one node until `stop` is requested or the server of a tunnel tells it to exit (OK), the
// server rejects it permanently (the server's error), or retries are used up (UNAVAILABLE). A
// server that fails the TLS checks, or speaks plaintext where TLS was expected or the reverse, is
// FAILED_PRECONDITION at once. Registers, activates, sends heartbeats on a thread of its own, pulls
// and verifies messages, runs `app`, pushes its replies, and finally deactivates and unregisters.
// Survives a restart of the server. Returns within 2 s of the stop request unless a handler of
// `app` does not return; `app` outlives the call.
absl::Status RunSuperNode(const ClientApp& app, SuperNodeOptions options, std::stop_token stop);

}  // namespace fedumm
