// The one rule for proxies: which proxy a node's calls to a SuperLink go through, as the
// environment says it. The look at the server, our HTTP client and gRPC's channel all ask here.
//
// Over HTTP the rule is that of httpx, which Flower's nodes from 1.40 use: http_proxy for
// plaintext, https_proxy for TLS, else all_proxy; in lower or upper case, lower case first. Over
// gRPC it is that of gRPC: grpc_proxy, else https_proxy, else http_proxy, in lower case only; with
// TLS or without. An empty variable means: no proxy.
//
// Hosts that are called without a proxy are listed in no_proxy (over gRPC no_grpc_proxy comes
// first), separated by commas. An entry is "*" (all hosts), a domain ("example.com" and what ends
// with ".example.com"; ".example.com" the latter only), a host or an IP address, each with a port
// (":8080") if wanted, or a range of addresses ("10.0.0.0/8"). Loopback is called through the proxy
// as any other address.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/host_port.h"

namespace fedumm::transport {

// An HTTP proxy.
struct Proxy {
  // "http://[user:password@]host[:port][/]" or "host[:port]", port 80 if it has none.
  // INVALID_ARGUMENT, which never quotes `url`, for anything else.
  static absl::StatusOr<Proxy> Parse(std::string_view url);

  // "the proxy http://host:port": never the password.
  std::string ToString() const;
  // A whole header line with CRLF, or "" for a proxy without a user.
  std::string AuthorizationLine() const;

  HostPort address;
  std::string authorization;  // "Basic ...", what Proxy-Authorization says; "" without a user
  bool operator==(const Proxy& other) const;
};

// A server, and the proxy on the way to it if there is one.
struct Route {
  // "host:port", with a proxy "host:port through the proxy http://host:port".
  std::string ToString() const;

  HostPort server;
  std::optional<Proxy> proxy;
};

// Tells a variable of the environment; nothing if it is not set.
using Environment = std::function<std::optional<std::string>(const char* name)>;
std::optional<std::string> ProcessEnvironment(const char* name);

// The way to `server` over HTTP and over gRPC. FAILED_PRECONDITION, naming the variable, if it
// names a proxy that cannot be used.
absl::StatusOr<Route> HttpRoute(const HostPort& server, bool tls, const Environment& environment);
absl::StatusOr<Route> GrpcRoute(const HostPort& server, const Environment& environment);

// What `status`, the HTTP status with which `proxy` answered, means for a call of `server`: OK if
// it is not a failure of the proxy's. FAILED_PRECONDITION if trying again does not help (403, 407),
// UNAVAILABLE if it may (502, 504).
absl::Status ProxyFailure(const Proxy& proxy, const HostPort& server, int status);

}  // namespace fedumm::transport
