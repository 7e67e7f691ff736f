#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fedumm/tls.h"

namespace fedumm::transport {

struct HttpRequest {
  std::string method;
  std::string path;                                         // without the query
  std::map<std::string, std::string, std::less<>> headers;  // names in lower case
  std::string body;
  int64_t head_bytes = 0;  // what came before the body
  std::string peer;        // its address, host:port
  bool from_here = false;  // whether the peer is on this machine

  // Empty if there is none.
  std::string_view Header(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type;
  std::string body;
  // Bytes that follow `body`, sent without being copied.
  std::vector<std::shared_ptr<const std::string>> segments;
  // Beyond those that the server writes itself.
  std::vector<std::pair<std::string, std::string>> headers;
};

// One request and its answer, which may be given later and from any thread. Thread-safe. An
// exchange that is destroyed without an answer answers 503.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;

  virtual HttpRequest& request() = 0;
  // `on_gone` is called at most once, if the peer disconnects before the answer was sent in full;
  // at once if it has disconnected already. Not if the answer was sent before this call.
  virtual void OnGone(std::function<void()> on_gone) = 0;
  // Answers. Called once.
  virtual void Respond(HttpResponse response) = 0;

  // A chunked answer in pieces instead: status 200, then the pieces, then the end. Pieces that a
  // slow peer has not read yet are kept; false once the peer disconnected or has 8 MiB waiting.
  virtual void StartStream(std::string content_type) = 0;
  virtual bool Write(std::string piece) = 0;
  virtual void Finish() = 0;
};

using HttpHandler = std::function<void(std::shared_ptr<HttpExchange> exchange)>;

// HTTP/1.1 over TCP or TLS, asynchronous: a waiting connection costs memory, not a thread. It
// answers GET and HEAD /health itself; the handler gets all other requests and must not wait.
// Thread-safe. Destruction ends all connections and waits for handlers that run, so it must not
// happen in one. Exchanges may outlive the server.
class HttpServer {
 public:
  struct Options {
    std::string address;           // host:port; port 0 picks a free one
    std::optional<ServerTls> tls;  // none: plaintext
    int64_t max_body_bytes = int64_t{24} << 20;
    // The limit of one request in place of max_body_bytes, from its header: an authenticated peer
    // may send more. Must not wait.
    std::function<int64_t(const HttpRequest& head)> max_body_of;
    int64_t max_header_bytes = 32 << 10;
    // Memory budget for bodies over 64 KiB that are being read or handled, of all connections;
    // those of one remote address get a quarter of it (see BodyQuota). When it is used up, further
    // bodies wait. A body larger than the budget is read alone.
    int64_t max_pending_body_bytes = int64_t{512} << 20;
    int max_connections = 20'000;
    absl::Duration idle_timeout = absl::Minutes(2);  // between two requests
    // For a header, and between two reads of a body or writes of an answer, which must also average
    // 64 KiB/s.
    absl::Duration progress_timeout = absl::Seconds(30);
  };
  // INVALID_ARGUMENT for an address that is none or certificates that cannot be used, UNAVAILABLE
  // for an address that cannot be bound.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(Options options, HttpHandler handler);
  ~HttpServer();

  int port() const;
  // Refuses new requests and closes each connection when its answer is sent, at the latest after
  // two seconds.
  void Shutdown();

 private:
  class Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fedumm::transport
