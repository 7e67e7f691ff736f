// The flags of programs that join a federation, named as in Flower where Flower has them.
#pragma once

#include <functional>
#include <string>

#include "CLI/App.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/record.h"
#include "fedumm/super_node.h"

namespace fedumm::programs {

struct NodeFlags {
  std::string superlink = "127.0.0.1:9092";
  std::string transport;  // empty: none was named
  bool grpc_rere = false;
  bool grpc_adapter = false;
  bool insecure = false;
  std::string root_certificates;
  std::string client_certfile;
  std::string client_keyfile;
  std::string private_key;
  std::string node_config;
  int64_t max_retries = -1;
  double max_wait_time_s = -1;
};

void AddNodeFlags(CLI::App& app, NodeFlags& flags);

// What the flags ask for, with the files that they name read. INVALID_ARGUMENT for flags that
// contradict each other, NOT_FOUND for a file that cannot be read.
absl::StatusOr<SuperNodeOptions> ToSuperNodeOptions(const NodeFlags& flags);

// Whether a node's config says which part of the data is here. INVALID_ARGUMENT if it does not.
// `tell` gets a line for each key that the node's own app does not know.
absl::Status CheckNodeConfig(const ConfigRecord& node_config,
                             const std::function<void(const std::string&)>& tell);

}  // namespace fedumm::programs
