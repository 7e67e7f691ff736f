#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/host_port.h"
#include "transport/proxy.h"
#include "transport/tls_client.h"

namespace fedumm::transport {

// The end of a wait: a time on the monotonic clock, or a stop request.
struct Until {
  using Clock = std::chrono::steady_clock;
  static Until After(absl::Duration duration, std::stop_token cancel = {});

  Clock::time_point deadline;
  std::stop_token cancel;
};

// A client's TCP connection, with TLS or without. Each call waits at most `until`. UNAVAILABLE for
// a server or proxy that cannot be reached or closed the connection, DEADLINE_EXCEEDED, CANCELLED,
// and FAILED_PRECONDITION for TLS, or a proxy's refusal, that another try does not mend; after an
// error the connection cannot be used any more. Errors of a proxy name it. Not thread-safe.
class Connection {
 public:
  // To the server, through a tunnel (CONNECT) if the route has a proxy. Plaintext if `tls` is null;
  // else it outlives the connection. `protocols` as for TlsSession.
  static absl::StatusOr<std::unique_ptr<Connection>> Open(const Route& route, const TlsClient* tls,
                                                          std::string_view protocols,
                                                          const Until& until);
  // To the route's proxy, which it must have, in plaintext: for requests that the proxy forwards.
  static absl::StatusOr<std::unique_ptr<Connection>> OpenToProxy(const Route& route,
                                                                 const Until& until);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Sends both, in one segment if they fit.
  absl::Status Write(std::string_view head, std::string_view body, const Until& until);
  // Returns the number of bytes read, 0 at the end.
  absl::StatusOr<size_t> Read(char* data, size_t size, const Until& until);
  // Whether the connection is open and no unexpected bytes have arrived.
  bool IsSilent();

  // The protocol that ALPN chose, "" if none.
  std::string_view protocol() const { return tls_ != nullptr ? tls_->protocol() : ""; }
  bool lacks_certificate() const { return tls_ != nullptr && tls_->lacks_certificate(); }

 private:
  // A file descriptor that closes itself.
  class Descriptor {
   public:
    explicit Descriptor(int fd) : fd_(fd) {}
    ~Descriptor();
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int get() const { return fd_; }

   private:
    const int fd_;
  };

  Connection(int socket, int waker, std::string name);
  // To one address after the other; `name` is what errors call it.
  static absl::StatusOr<std::unique_ptr<Connection>> ConnectTo(const HostPort& address,
                                                               const std::string& name,
                                                               const Until& until);
  absl::Status Connect(const void* address, unsigned size, const Until& until);
  absl::Status StartTunnel(const Route& route, const Until& until);
  absl::Status StartTls(const TlsClient& tls, const std::string& host, std::string_view protocols,
                        const Until& until);
  absl::Status WriteTls(std::string_view bytes, const Until& until);
  // Until the socket has one of poll's `events`.
  absl::Status Wait(short events, const Until& until);
  absl::Status Await(TlsSession::Step step, const Until& until);

  const Descriptor socket_;
  const Descriptor waker_;  // an eventfd that ends a wait
  std::string name_;        // of what is at the other end
  std::unique_ptr<TlsSession> tls_;
};

}  // namespace fedumm::transport
