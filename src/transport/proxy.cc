#include "transport/proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/printable.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace fedumm::transport {
namespace {

constexpr uint16_t kDefaultPort = 80;

// "%40" becomes "@". Nothing if a '%' is not followed by two digits.
std::optional<std::string> PercentDecoded(absl::string_view text) {
  std::string result;
  while (!text.empty()) {
    if (text[0] != '%') {
      result += text[0];
      text.remove_prefix(1);
      continue;
    }
    if (text.size() < 3 || !absl::ascii_isxdigit(text[1]) || !absl::ascii_isxdigit(text[2])) {
      return std::nullopt;
    }
    result += absl::HexStringToBytes(text.substr(1, 2));
    text.remove_prefix(3);
  }
  return result;
}

// "host[:port]", an IPv6 address in brackets; with a port if the text has none.
absl::StatusOr<HostPort> ParseAuthority(absl::string_view text, uint16_t default_port) {
  const bool has_port = !absl::EndsWith(text, "]") && absl::StrContains(text, ":");
  return HostPort::Parse(has_port ? std::string(text) : absl::StrCat(text, ":", default_port));
}

struct IpAddress {
  std::array<unsigned char, sizeof(in6_addr)> bytes = {};
  int num_bits = 0;  // 0: none
};

IpAddress ParseIp(const std::string& text) {
  IpAddress ip;
  if (inet_pton(AF_INET, text.c_str(), ip.bytes.data()) == 1) {
    ip.num_bits = 32;
  } else if (inet_pton(AF_INET6, text.c_str(), ip.bytes.data()) == 1) {
    ip.num_bits = 128;
  }
  return ip;
}

// Whether `range` is "address/bits" and `host` an address in it.
bool IsInRange(const std::string& host, absl::string_view range) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(range, absl::MaxSplits('/', 1));
  const IpAddress ip = ParseIp(host);
  const IpAddress first = ParseIp(parts.first);
  int num_bits = 0;
  if (ip.num_bits == 0 || ip.num_bits != first.num_bits ||
      !absl::SimpleAtoi(parts.second, &num_bits) || num_bits < 0 || num_bits > ip.num_bits) {
    return false;
  }
  for (int bit = 0; bit < num_bits; ++bit) {
    if (((ip.bytes[bit / 8] ^ first.bytes[bit / 8]) >> (7 - bit % 8) & 1) != 0) return false;
  }
  return true;
}

// Whether an entry of no_proxy means `server`.
bool Excludes(absl::string_view entry, const HostPort& server) {
  if (entry == "*") return true;
  if (absl::StrContains(entry, "/")) return IsInRange(server.host, entry);
  const IpAddress whole = ParseIp(std::string(entry));  // "::1" has no port
  HostPort excluded = {std::string(entry), server.port};
  if (whole.num_bits == 0 && absl::StrContains(entry, ":")) {
    const absl::StatusOr<HostPort> parsed =
        absl::EndsWith(entry, "]") ? HostPort::FromHost(std::string(entry), server.port)
                                   : HostPort::Parse(std::string(entry));
    if (!parsed.ok()) return false;
    excluded = *parsed;
  }
  if (excluded.port != server.port) return false;
  const IpAddress ip = ParseIp(server.host);
  const IpAddress excluded_ip = ParseIp(excluded.host);
  if (ip.num_bits != 0 || excluded_ip.num_bits != 0) {
    return ip.num_bits == excluded_ip.num_bits && ip.bytes == excluded_ip.bytes;
  }
  const absl::string_view domain = excluded.host;
  if (absl::EqualsIgnoreCase(server.host, domain)) return true;
  return absl::EndsWithIgnoreCase(
      server.host, absl::StartsWith(domain, ".") ? std::string(domain) : absl::StrCat(".", domain));
}

bool IsExcluded(const std::string& no_proxy, const HostPort& server) {
  for (const absl::string_view entry : absl::StrSplit(no_proxy, ',')) {
    const absl::string_view stripped = absl::StripAsciiWhitespace(entry);
    if (!stripped.empty() && Excludes(stripped, server)) return true;
  }
  return false;
}

struct Variable {
  std::string name;
  std::string value;
};

// The first variable that is set. With `any_case` each name is tried in lower and in upper case:
// an empty one in lower case hides the other.
std::optional<Variable> FirstOf(std::initializer_list<const char*> names, bool any_case,
                                const Environment& environment) {
  for (const char* const name : names) {
    for (const std::string& spelling : {std::string(name), absl::AsciiStrToUpper(name)}) {
      if (spelling != name && !any_case) continue;
      std::optional<std::string> value = environment(spelling.c_str());
      if (value.has_value()) return Variable{spelling, *std::move(value)};
    }
  }
  return std::nullopt;
}

absl::StatusOr<Route> RouteThrough(const std::optional<Variable>& proxy,
                                   const std::optional<Variable>& no_proxy,
                                   const HostPort& server) {
  Route route = {.server = server, .proxy = std::nullopt};
  if (!proxy.has_value() || proxy->value.empty()) return route;
  if (no_proxy.has_value() && IsExcluded(no_proxy->value, server)) return route;
  absl::StatusOr<Proxy> parsed = Proxy::Parse(proxy->value);
  if (!parsed.ok()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the environment variable ", proxy->name, " cannot be used: ", parsed.status().message()));
  }
  route.proxy = *std::move(parsed);
  return route;
}

}  // namespace

absl::StatusOr<Proxy> Proxy::Parse(std::string_view url) {
  constexpr absl::string_view kForm = "a proxy is http://[user:password@]host:port";
  absl::string_view rest = absl::StripAsciiWhitespace(Text(url));
  if (const size_t end = rest.find("://"); end != absl::string_view::npos) {
    const absl::string_view scheme = rest.substr(0, end);
    if (!absl::EqualsIgnoreCase(scheme, "http")) {
      return absl::InvalidArgumentError(
          absl::StrCat(kForm, "; the scheme '", Printable(scheme), "' is not supported"));
    }
    rest.remove_prefix(end + 3);
  }
  rest = rest.substr(0, rest.find_first_of("/?#"));
  Proxy proxy;
  if (const size_t at = rest.rfind('@'); at != absl::string_view::npos) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(rest.substr(0, at), absl::MaxSplits(':', 1));
    const std::optional<std::string> user = PercentDecoded(parts.first);
    const std::optional<std::string> password = PercentDecoded(parts.second);
    if (!user.has_value() || !password.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat(kForm, "; a '%' of the user or password is not followed by two digits"));
    }
    proxy.authorization =
        absl::StrCat("Basic ", absl::Base64Escape(absl::StrCat(*user, ":", *password)));
    rest.remove_prefix(at + 1);
  }
  const absl::StatusOr<HostPort> address = ParseAuthority(rest, kDefaultPort);
  if (!address.ok()) return absl::InvalidArgumentError(kForm);
  proxy.address = *address;
  return proxy;
}

std::string Proxy::ToString() const {
  return absl::StrCat("the proxy http://", address.ToString());
}

std::string Proxy::AuthorizationLine() const {
  return authorization.empty() ? "" : absl::StrCat("Proxy-Authorization: ", authorization, "\r\n");
}

bool Proxy::operator==(const Proxy& other) const {
  return address.ToString() == other.address.ToString() && authorization == other.authorization;
}

std::string Route::ToString() const {
  return proxy.has_value() ? absl::StrCat(server.ToString(), " through ", proxy->ToString())
                           : server.ToString();
}

std::optional<std::string> ProcessEnvironment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

absl::StatusOr<Route> HttpRoute(const HostPort& server, bool tls, const Environment& environment) {
  std::optional<Variable> proxy =
      FirstOf({tls ? "https_proxy" : "http_proxy"}, /*any_case=*/true, environment);
  if (!proxy.has_value() || proxy->value.empty()) {
    proxy = FirstOf({"all_proxy"}, /*any_case=*/true, environment);
  }
  return RouteThrough(proxy, FirstOf({"no_proxy"}, /*any_case=*/true, environment), server);
}

absl::StatusOr<Route> GrpcRoute(const HostPort& server, const Environment& environment) {
  const std::optional<Variable> proxy = FirstOf({"grpc_proxy", "https_proxy", "http_proxy"},
                                                /*any_case=*/false, environment);
  return RouteThrough(proxy, FirstOf({"no_grpc_proxy", "no_proxy"}, /*any_case=*/true, environment),
                      server);
}

absl::Status ProxyFailure(const Proxy& proxy, const HostPort& server, int status) {
  switch (status) {
    case 407:
      return absl::FailedPreconditionError(absl::StrCat(
          proxy.ToString(),
          proxy.authorization.empty() ? " requires a user and a password" : " refuses the password",
          " (HTTP status 407)"));
    case 403:
      return absl::FailedPreconditionError(absl::StrCat(
          proxy.ToString(), " does not allow calls of ", server.ToString(), " (HTTP status 403)"));
    case 502:
    case 504:
      return absl::UnavailableError(absl::StrCat(proxy.ToString(), " cannot reach ",
                                                 server.ToString(), " (HTTP status ", status, ")"));
    default:
      return absl::OkStatus();
  }
}

}  // namespace fedumm::transport
