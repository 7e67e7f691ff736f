#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/tls.h"

struct ssl_ctx_st;  // OpenSSL's SSL_CTX
struct ssl_st;      // and SSL

namespace fedumm::transport {

// The certificates and settings of a client's TLS connections: TLS 1.2 or newer. Immutable,
// thread-safe.
class TlsClient {
 public:
  // INVALID_ARGUMENT, naming the part, for PEM that cannot be used.
  static absl::StatusOr<std::unique_ptr<const TlsClient>> Create(const ClientTls& tls);
  // Accepts every certificate. Only tells whether a server speaks TLS: nothing is sent through it.
  static absl::StatusOr<std::unique_ptr<const TlsClient>> CreateUnchecked();

  ssl_ctx_st* context() const { return context_.get(); }

 private:
  struct Free {
    void operator()(ssl_ctx_st* context) const;
  };
  using Handle = std::unique_ptr<ssl_ctx_st, Free>;
  explicit TlsClient(Handle context) : context_(std::move(context)) {}
  static absl::StatusOr<Handle> NewContext();

  const Handle context_;
};

// The TLS layer of one connection. Never waits: returns what to wait for instead.
// FAILED_PRECONDITION for what another try does not mend, in one line that names the server;
// UNAVAILABLE if the connection broke. After an error it cannot be used any more. Not thread-safe.
class TlsSession {
 public:
  // The outcome of a step.
  enum class Step { kDone, kReadable, kWritable, kEnd };

  // Over the non-blocking socket `fd`, which stays the caller's. The server must prove that it is
  // `host`, a name or an IP address; `server` is its name for people. `protocols`: what is offered
  // by ALPN, the preferred one first, each a length byte and a name.
  static absl::StatusOr<std::unique_ptr<TlsSession>> Create(const TlsClient& client, int fd,
                                                            const std::string& host,
                                                            std::string server,
                                                            std::string_view protocols);
  ~TlsSession();
  TlsSession(const TlsSession&) = delete;
  TlsSession& operator=(const TlsSession&) = delete;

  absl::StatusOr<Step> Handshake();
  // kDone: `done` bytes were moved, at least one. kEnd (of Read only): the server closed the
  // session.
  absl::StatusOr<Step> Read(char* data, size_t size, size_t& done);
  absl::StatusOr<Step> Write(std::string_view bytes, size_t& done);
  // Whether nothing has arrived since the last read: no data, no close.
  bool IsSilent();

  // The protocol that the server chose, "" if it chose none.
  std::string_view protocol() const;
  // The server asked for a certificate, and this client has none.
  bool lacks_certificate() const { return lacks_certificate_; }

 private:
  struct Free {
    void operator()(ssl_st* session) const;
  };

  explicit TlsSession(std::string server) : server_(std::move(server)) {}
  absl::StatusOr<Step> StepOf(int result);
  absl::Status Failure() const;
  static int Verify(int ok, void* store_context);
  friend class TlsClient;

  const std::string server_;
  std::string certificate_trouble_;  // of the first certificate that did not pass
  bool lacks_certificate_ = false;
  bool established_ = false;
  bool broken_ = false;
  std::unique_ptr<ssl_st, Free> ssl_;
};

}  // namespace fedumm::transport
