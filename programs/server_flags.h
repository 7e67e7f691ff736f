// The flags of all programs that serve a federation, named as in Flower where Flower has them.
#pragma once

#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "CLI/App.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/super_link.h"

namespace fedumm::programs {

struct ServerFlags {
  bool insecure = false;
  std::string ssl_certfile;
  std::string ssl_keyfile;
  std::string ssl_ca_certfile;
  std::string ssl_client_ca_certfile;
  std::string host;  // of HTTP; empty: 127.0.0.1
  std::string port;  // of HTTP; empty: the program's default
  std::string control_api_address;
  std::string fleet_api_address = "127.0.0.1:9092";
  std::string fleet_api_type = "grpc-rere";
  std::string grpc_adapter_address;
  std::string serverappio_api_address;
  bool enable_supernode_auth = false;
  std::string supernode_keys;
  bool allow_remote_control = false;
  std::string port_file;
  bool verbose = false;
};

// Includes flags of some Flower versions that have one possible value here: that value is accepted,
// any other is refused with what to do instead.
void AddServerFlags(CLI::App& app, ServerFlags& flags);

// What the flags ask for; `default_port` is that of HTTP. INVALID_ARGUMENT for flags that do not
// fit together or that could not take effect, such as none that choose between TLS and plaintext;
// NOT_FOUND for a missing file.
absl::StatusOr<SuperLinkOptions> ToSuperLinkOptions(const ServerFlags& flags,
                                                    const std::string& default_port);

// Writes the port of gRPC on a line of its own, then a line `NAME PORT` for each other transport.
absl::Status WritePorts(const SuperLink& link, const std::string& path);

// "gRPC 127.0.0.1:9092, HTTP 127.0.0.1:8000": where nodes may connect.
std::string DescribePorts(const SuperLink& link, const SuperLinkOptions& options);

// Lets those nodes join whose public keys are in a file, one a line, and follows the file while it
// changes. A file that cannot be used changes nothing, and is logged. Destruction stops it.
class KeyFile {
 public:
  // The first read's errors. `link` outlives this.
  static absl::StatusOr<std::unique_ptr<KeyFile>> Follow(SuperLink& link, const std::string& path);

 private:
  explicit KeyFile(std::jthread thread) : thread_(std::move(thread)) {}
  std::jthread thread_;
};

}  // namespace fedumm::programs
