#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace fedumm {

// A host and a port: where a server is, or where one listens.
struct HostPort {
  // "host:port", port 1 to 65535. An IPv6 address must be in brackets. INVALID_ARGUMENT, naming
  // `address`, for anything else.
  static absl::StatusOr<HostPort> Parse(const std::string& address);
  // The same, for an address to listen on: port 0 is allowed, it picks a free port.
  static absl::StatusOr<HostPort> ParseListener(const std::string& address);
  // A host alone: an IPv6 address with or without brackets, another address, or a name.
  // INVALID_ARGUMENT, naming `host`, for anything else.
  static absl::StatusOr<HostPort> FromHost(const std::string& host, uint16_t port);

  // "host:port" as Parse takes it: "[::1]:9092".
  std::string ToString() const;
  // "localhost" or an address of the loopback interface.
  bool IsLoopback() const;
  // Where a client on the same machine reaches a server that listens here: loopback for 0.0.0.0
  // and ::, else the same host.
  HostPort ForLocalClient() const;

  std::string host;  // without brackets
  uint16_t port = 0;
};

// Whether `host` is an IPv4 or IPv6 address (without brackets) and not a name.
bool IsIpAddress(const std::string& host);

}  // namespace fedumm
