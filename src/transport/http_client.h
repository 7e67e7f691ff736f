#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "transport/connection.h"
#include "transport/proxy.h"

namespace fedumm::transport {

struct HttpAnswer {
  int status = 0;
  std::map<std::string, std::string, std::less<>> headers;  // names in lower case
  std::string body;

  // Empty if there is none.
  std::string_view Header(std::string_view name) const;
};

// POST over HTTP/1.1 to one server. Keeps connections for the next calls; one that the server has
// closed meanwhile is replaced without an error. Calls of several threads use a connection each.
// Thread-safe. `tls` outlives it.
class HttpClient {
 public:
  struct Options {
    int64_t max_body_bytes = int64_t{17} << 20;  // of an answer
    uint32_t max_header_bytes = 32 << 10;
  };
  // `tls` null: plaintext. A proxy forwards plaintext requests, and tunnels TLS.
  HttpClient(Route route, const TlsClient* tls, Options options);
  ~HttpClient();

  // `headers`: whole lines, each ended by CRLF; Host and Content-Length are added. Any status is an
  // answer, except a failure of the proxy's (407, 502, 504). Errors are those of Connection, and
  // INTERNAL for what is no HTTP answer or breaks the limits.
  absl::StatusOr<HttpAnswer> Post(std::string_view path, std::string_view headers,
                                  std::string_view body, const Until& until);

 private:
  class Channel;  // a connection and what was read too far
  struct Outcome;

  std::unique_ptr<Channel> TakeIdle();
  Outcome PostOn(std::unique_ptr<Channel> channel, std::string_view head, std::string_view body,
                 const Until& until);

  absl::StatusOr<std::unique_ptr<Connection>> Connect(const Until& until) const;
  // Whether requests are sent to the proxy in absolute form.
  bool IsForwarded() const { return route_.proxy.has_value() && tls_ == nullptr; }

  const Route route_;
  const std::string name_;  // of the server, for errors
  const TlsClient* const tls_;
  const Options options_;
  Mutex mutex_;
  std::vector<std::unique_ptr<Channel>> idle_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace fedumm::transport
