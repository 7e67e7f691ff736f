#include "transport/probe.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/printable.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace fedumm::transport {
namespace {

using std::string_view_literals::operator""sv;  // NOLINT(misc-unused-using-decls): it is used

constexpr absl::Duration kTimeout = absl::Seconds(5);  // of each connection
constexpr std::string_view kHttp1Preface = "HTTP/"sv;
// The connection preface of HTTP/2, and empty SETTINGS.
constexpr std::string_view kHttp2Hello = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"sv;
constexpr size_t kFrameHeader = 9;
constexpr size_t kStatusLine = 12;  // "HTTP/1.1 200"

std::string Offer(Acceptable acceptable) {
  return absl::StrCat(acceptable.two ? "\x02h2" : "", acceptable.one ? "\x08http/1.1" : "");
}

bool IsSettingsFrame(std::string_view bytes) {
  // Length (3 bytes, a multiple of 6), type 4, no acknowledgement, stream 0.
  return bytes.size() >= kFrameHeader && bytes[0] == 0 && bytes[3] == 4 && bytes[4] == 0 &&
         bytes.substr(5, 4) == "\0\0\0\0"sv;
}

bool IsTlsRecord(std::string_view bytes) {
  return bytes.size() >= 2 && bytes[0] == 0x15 && bytes[1] == 3;  // an alert
}

// Probes one server.
class ServerProbe {
 public:
  ServerProbe(const Route& route, const Until& until)
      : route_(route), name_(route.ToString()), until_(until) {}

  absl::StatusOr<HttpVersion> InPlaintext(Acceptable acceptable);
  absl::StatusOr<HttpVersion> ThroughTls(const TlsClient& tls, Acceptable acceptable);

 private:
  Until Timeout() const {
    const Until soon = Until::After(kTimeout, until_.cancel);
    return {std::min(soon.deadline, until_.deadline), soon.cancel};
  }
  absl::StatusOr<std::unique_ptr<Connection>> Open(const TlsClient* tls, Acceptable acceptable) {
    return Connection::Open(route_, tls, Offer(acceptable), Timeout());
  }
  // `origin` and `lines` are what a request that a proxy forwards has in addition.
  std::string HealthRequest(std::string_view origin = "", std::string_view lines = "") const {
    return absl::StrCat("GET ", Text(origin),
                        "/health HTTP/1.1\r\nHost: ", route_.server.ToString(), "\r\n", Text(lines),
                        "Accept: */*\r\nConnection: close\r\n\r\n");
  }
  // The first `num_bytes` bytes or more that answer `hello`, fewer if no more come, "" if the
  // server closes instead.
  absl::StatusOr<std::string> Ask(Connection& connection, std::string_view hello,
                                  size_t num_bytes = kFrameHeader);
  absl::StatusOr<std::string> AskInPlaintext(std::string_view hello);
  // OK if an HTTP server answered a request that the proxy forwarded.
  absl::Status AskForwarded();
  absl::StatusOr<bool> SpeaksTls();

  absl::Status UnknownProtocol(std::string_view bytes) const {
    return absl::FailedPreconditionError(
        absl::StrCat(name_, " is no SuperLink: it speaks neither HTTP nor gRPC, it answers \"",
                     Printable(Text(bytes.substr(0, 32))), "\""));
  }
  absl::Status ClosedWithoutAnswer() const {
    return absl::UnavailableError(absl::StrCat(name_, " closed the connection without an answer"));
  }

  const Route& route_;
  const std::string name_;  // of the server, for errors
  const Until& until_;
};

absl::StatusOr<std::string> ServerProbe::Ask(Connection& connection, std::string_view hello,
                                             size_t num_bytes) {
  const Until soon = Timeout();
  const absl::Status sent = connection.Write(hello, "", soon);
  if (!sent.ok() && !absl::IsUnavailable(sent)) return sent;
  std::string bytes;
  std::array<char, 256> part;
  while (bytes.size() < num_bytes) {
    const absl::StatusOr<size_t> got = connection.Read(part.data(), part.size(), soon);
    if (absl::IsDeadlineExceeded(got.status()) && !bytes.empty()) break;  // that is all
    if (!got.ok() && !absl::IsUnavailable(got.status())) return got.status();
    if (!got.ok() || *got == 0) break;
    bytes.append(part.data(), *got);
  }
  return bytes;
}

absl::StatusOr<std::string> ServerProbe::AskInPlaintext(std::string_view hello) {
  FEDUMM_ASSIGN_OR_RETURN(const auto connection, Open(nullptr, {}));
  return Ask(*connection, hello);
}

absl::StatusOr<bool> ServerProbe::SpeaksTls() {
  FEDUMM_ASSIGN_OR_RETURN(const auto unchecked, TlsClient::CreateUnchecked());
  const auto connection = Open(unchecked.get(), {});
  if (absl::IsCancelled(connection.status())) return connection.status();
  return connection.ok();
}

absl::Status ServerProbe::AskForwarded() {
  const Proxy& proxy = *route_.proxy;
  FEDUMM_ASSIGN_OR_RETURN(const auto connection, Connection::OpenToProxy(route_, Timeout()));
  const std::string origin = absl::StrCat("http://", route_.server.ToString());
  FEDUMM_ASSIGN_OR_RETURN(
      const std::string bytes,
      Ask(*connection, HealthRequest(origin, proxy.AuthorizationLine()), kStatusLine));
  if (bytes.empty()) {
    return absl::UnavailableError(
        absl::StrCat(proxy.ToString(), " closed the connection without an answer"));
  }
  int status = 0;
  if (!absl::StartsWith(bytes, Text(kHttp1Preface)) || bytes.size() < kStatusLine ||
      !absl::SimpleAtoi(bytes.substr(kStatusLine - 3, 3), &status)) {
    return absl::FailedPreconditionError(
        absl::StrCat(proxy.ToString(), " is no HTTP proxy: it answers \"",
                     Printable(bytes, /*max_characters=*/32), "\""));
  }
  if (status == 503) {
    return absl::UnavailableError(
        absl::StrCat(name_, " is not available: ", "HTTP status ", status));
  }
  return ProxyFailure(proxy, route_.server, status);
}

absl::StatusOr<HttpVersion> ServerProbe::InPlaintext(Acceptable acceptable) {
  if (acceptable.one && route_.proxy.has_value()) {
    const absl::Status forwarded = AskForwarded();
    if (forwarded.ok()) return HttpVersion::kOne;
    if (!acceptable.two || absl::IsCancelled(forwarded)) return forwarded;
    const absl::StatusOr<HttpVersion> tunnelled = InPlaintext({.one = false, .two = true});
    if (tunnelled.ok() && *tunnelled == HttpVersion::kTwo) return tunnelled;
    return tunnelled.ok() ? forwarded : EitherFailure(forwarded, tunnelled.status());
  }
  const std::string health = HealthRequest();
  FEDUMM_ASSIGN_OR_RETURN(std::string bytes,
                          AskInPlaintext(acceptable.one ? std::string_view(health) : kHttp2Hello));
  const bool is_http1 = absl::StartsWith(bytes, Text(kHttp1Preface));
  // A web server with TLS may answer 400 in plaintext.
  const bool maybe_tls = bytes.empty() || IsTlsRecord(bytes) || bytes.find(" 400") < kFrameHeader;
  if (maybe_tls && (!is_http1 || acceptable.one)) {
    FEDUMM_ASSIGN_OR_RETURN(const bool speaks_tls, SpeaksTls());
    if (speaks_tls || IsTlsRecord(bytes)) {
      return absl::FailedPreconditionError(
          absl::StrCat(name_, " speaks TLS, and this node was told to be insecure"));
    }
  }
  if (is_http1) return HttpVersion::kOne;
  if (bytes.empty() && acceptable.one && acceptable.two) {  // it may wait for the preface of HTTP/2
    FEDUMM_ASSIGN_OR_RETURN(bytes, AskInPlaintext(kHttp2Hello));
  }
  if (IsSettingsFrame(bytes)) return HttpVersion::kTwo;
  return bytes.empty() ? ClosedWithoutAnswer() : UnknownProtocol(bytes);
}

absl::StatusOr<HttpVersion> ServerProbe::ThroughTls(const TlsClient& tls, Acceptable acceptable) {
  const auto connection = Open(&tls, acceptable);
  if (absl::IsUnavailable(connection.status())) {
    // It closed the connection, perhaps since it does not speak TLS.
    const absl::StatusOr<std::string> plain =
        AskInPlaintext(acceptable.one ? HealthRequest() : std::string(kHttp2Hello));
    if (plain.ok() && (absl::StartsWith(*plain, Text(kHttp1Preface)) || IsSettingsFrame(*plain))) {
      return absl::FailedPreconditionError(
          absl::StrCat(name_, " speaks plaintext, and this node was told to use TLS"));
    }
  }
  FEDUMM_RETURN_IF_ERROR(connection.status());
  const bool chose_two = (*connection)->protocol() == "h2";
  FEDUMM_ASSIGN_OR_RETURN(
      const std::string bytes,
      Ask(**connection, chose_two ? std::string(kHttp2Hello) : HealthRequest()));
  if (bytes.empty() && (*connection)->lacks_certificate()) {
    return absl::FailedPreconditionError(
        absl::StrCat(name_, " requires a client certificate, and none was given"));
  }
  if (bytes.empty()) return ClosedWithoutAnswer();
  if (absl::StartsWith(bytes, Text(kHttp1Preface))) return HttpVersion::kOne;
  if (IsSettingsFrame(bytes)) return HttpVersion::kTwo;
  return UnknownProtocol(bytes);
}

}  // namespace

absl::Status EitherFailure(const absl::Status& one, const absl::Status& other) {
  const bool may_pass = !absl::IsFailedPrecondition(one) || !absl::IsFailedPrecondition(other);
  if (absl::IsCancelled(one) || absl::IsCancelled(other)) return absl::CancelledError("stopped");
  if (one.message() == other.message()) return absl::IsFailedPrecondition(one) ? other : one;
  const std::string text = absl::StrCat(one.message(), "; ", other.message());
  return may_pass ? absl::UnavailableError(text) : absl::FailedPreconditionError(text);
}

absl::StatusOr<HttpVersion> Probe(const Route& route, const TlsClient* tls, Acceptable acceptable,
                                  const Until& until) {
  ServerProbe probe(route, until);
  return tls != nullptr ? probe.ThroughTls(*tls, acceptable) : probe.InPlaintext(acceptable);
}

}  // namespace fedumm::transport
