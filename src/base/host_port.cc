#include "base/host_port.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <array>
#include <limits>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/printable.h"
#include "base/status_macros.h"

namespace fedumm {
namespace {

// Without brackets. Nothing if `host` cannot be one.
std::optional<std::string> BareHost(std::string host, bool needs_brackets) {
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  const bool has_colon = host.find(':') != std::string::npos;
  if (host.empty() || (bracketed && !has_colon)) return std::nullopt;
  if (has_colon && !bracketed && (needs_brackets || !IsIpAddress(host))) return std::nullopt;
  if (host.find_first_of(std::string("[]/@ \t\r\n\0", 9)) != std::string::npos) {
    return std::nullopt;
  }
  return host;
}

absl::StatusOr<HostPort> ParseWithPortFrom(const std::string& address, uint32_t lowest_port) {
  const absl::Status wrong = absl::InvalidArgumentError(
      absl::StrCat("the address is not host:port: ", Printable(address)));
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return wrong;
  std::optional<std::string> host = BareHost(address.substr(0, colon), /*needs_brackets=*/true);
  uint32_t port = 0;
  if (!host.has_value() || !absl::SimpleAtoi(address.substr(colon + 1), &port) ||
      port < lowest_port || port > std::numeric_limits<uint16_t>::max()) {
    return wrong;
  }
  return HostPort{*std::move(host), static_cast<uint16_t>(port)};
}

}  // namespace

bool IsIpAddress(const std::string& host) {
  std::array<unsigned char, sizeof(in6_addr)> address;
  // A scope ("fe80::1%eth0") is no part of the address.
  return inet_pton(AF_INET, host.c_str(), address.data()) == 1 ||
         inet_pton(AF_INET6, host.substr(0, host.find('%')).c_str(), address.data()) == 1;
}

absl::StatusOr<HostPort> HostPort::Parse(const std::string& address) {
  return ParseWithPortFrom(address, 1);
}

absl::StatusOr<HostPort> HostPort::ParseListener(const std::string& address) {
  return ParseWithPortFrom(address, 0);
}

absl::StatusOr<HostPort> HostPort::FromHost(const std::string& host, uint16_t port) {
  std::optional<std::string> bare = BareHost(host, /*needs_brackets=*/false);
  if (bare.has_value()) return HostPort{*std::move(bare), port};
  return absl::InvalidArgumentError(
      absl::StrCat("the host is neither a name nor an IP address: ", Printable(host)));
}

std::string HostPort::ToString() const {
  return host.find(':') != std::string::npos ? absl::StrCat("[", host, "]:", port)
                                             : absl::StrCat(host, ":", port);
}

bool HostPort::IsLoopback() const {
  in_addr v4;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == IN_LOOPBACKNET;
  in6_addr v6;
  if (inet_pton(AF_INET6, host.c_str(), &v6) == 1) return IN6_IS_ADDR_LOOPBACK(&v6) != 0;
  return absl::EqualsIgnoreCase(host, "localhost");
}

HostPort HostPort::ForLocalClient() const {
  in_addr v4;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1 && v4.s_addr == INADDR_ANY) {
    return {"127.0.0.1", port};
  }
  in6_addr v6;
  if (inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_UNSPECIFIED(&v6)) {
    return {"::1", port};
  }
  return *this;
}

}  // namespace fedumm
