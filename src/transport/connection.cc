#include "transport/connection.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/printable.h"
#include "base/status_macros.h"

namespace fedumm::transport {
namespace {

absl::Status Cancelled() { return absl::CancelledError("stopped"); }

absl::Status TooLate(const std::string& server) {
  return absl::DeadlineExceededError(absl::StrCat("no answer in time from ", server));
}

std::string ErrorText(int error) {
  return std::error_code(error, std::generic_category()).message();
}

absl::Status Lost(const std::string& server, int error) {
  return absl::UnavailableError(
      absl::StrCat("lost the connection to ", server, ": ", ErrorText(error)));
}

struct Address {
  sockaddr_storage bytes;
  socklen_t size;
};

// The addresses of getaddrinfo, in the system's order.
absl::StatusOr<std::vector<Address>> LookUp(const HostPort& server, const std::string& name) {
  const addrinfo hints = {.ai_flags = AI_NUMERICSERV | AI_ADDRCONFIG,
                          .ai_family = AF_UNSPEC,
                          .ai_socktype = SOCK_STREAM,
                          .ai_protocol = IPPROTO_TCP};
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(server.host.c_str(), absl::StrCat(server.port).c_str(), &hints, &found);
  if (error != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot resolve ", Printable(name), ": ", gai_strerror(error)));
  }
  std::vector<Address> result;
  for (const addrinfo* next = found; next != nullptr; next = next->ai_next) {
    Address address = {.bytes = {}, .size = next->ai_addrlen};
    std::memcpy(&address.bytes, next->ai_addr,
                std::min<size_t>(next->ai_addrlen, sizeof(address.bytes)));
    result.push_back(address);
  }
  freeaddrinfo(found);
  return result;
}

// The answer of a name server, which may take longer than the caller waits.
struct Resolution {
  Mutex mutex;
  CondVar changed;
  bool given_up ABSL_GUARDED_BY(mutex) = false;
  std::optional<absl::StatusOr<std::vector<Address>>> answer ABSL_GUARDED_BY(mutex);
};

absl::StatusOr<std::vector<Address>> Resolve(const HostPort& server, const std::string& name,
                                             const Until& until) {
  if (IsIpAddress(server.host)) return LookUp(server, name);
  const auto resolution = std::make_shared<Resolution>();
  // getaddrinfo cannot be interrupted: its thread is detached, and may outlive the wait.
  std::thread([resolution, server, name] {
    absl::StatusOr<std::vector<Address>> answer = LookUp(server, name);
    MutexLock lock(resolution->mutex);
    resolution->answer = std::move(answer);
    resolution->changed.NotifyAll();
  }).detach();
  const std::stop_callback wake(until.cancel, [&resolution] {
    MutexLock lock(resolution->mutex);
    resolution->given_up = true;
    resolution->changed.NotifyAll();
  });
  MutexLock lock(resolution->mutex);
  while (!resolution->answer.has_value()) {
    if (resolution->given_up) return Cancelled();
    const Until::Clock::duration left = until.deadline - Until::Clock::now();
    if (left <= left.zero()) return TooLate(absl::StrCat("the name servers for ", name));
    resolution->changed.WaitFor(resolution->mutex, absl::FromChrono(left));
  }
  return *std::move(resolution->answer);
}

}  // namespace

Until Until::After(absl::Duration duration, std::stop_token cancel) {
  duration = std::clamp(duration, absl::ZeroDuration(), absl::Hours(24));
  return {Clock::now() + absl::ToChronoNanoseconds(duration), std::move(cancel)};
}

Connection::Descriptor::~Descriptor() {
  if (fd_ >= 0) close(fd_);
}

Connection::Connection(int socket, int waker, std::string name)
    : socket_(socket), waker_(waker), name_(std::move(name)) {}

Connection::~Connection() = default;

absl::StatusOr<std::unique_ptr<Connection>> Connection::Open(const Route& route,
                                                             const TlsClient* tls,
                                                             std::string_view protocols,
                                                             const Until& until) {
  std::unique_ptr<Connection> connection;
  if (route.proxy.has_value()) {
    FEDUMM_ASSIGN_OR_RETURN(connection, OpenToProxy(route, until));
    FEDUMM_RETURN_IF_ERROR(connection->StartTunnel(route, until));
    connection->name_ = route.ToString();
  } else {
    FEDUMM_ASSIGN_OR_RETURN(connection, ConnectTo(route.server, route.server.ToString(), until));
  }
  if (tls != nullptr) {
    FEDUMM_RETURN_IF_ERROR(connection->StartTls(*tls, route.server.host, protocols, until));
  }
  return connection;
}

absl::StatusOr<std::unique_ptr<Connection>> Connection::OpenToProxy(const Route& route,
                                                                    const Until& until) {
  return ConnectTo(route.proxy->address, route.proxy->ToString(), until);
}

absl::StatusOr<std::unique_ptr<Connection>> Connection::ConnectTo(const HostPort& address,
                                                                  const std::string& name,
                                                                  const Until& until) {
  if (until.cancel.stop_requested()) return Cancelled();
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<Address> addresses, Resolve(address, name, until));
  absl::Status failure = absl::UnavailableError(absl::StrCat("no address for ", name));
  for (size_t i = 0; i < addresses.size(); ++i) {
    const int family = addresses[i].bytes.ss_family;
    const int socket = ::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
    const int waker = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    std::unique_ptr<Connection> connection(new Connection(socket, waker, name));
    if (socket < 0 || waker < 0) {
      failure = absl::UnavailableError(absl::StrCat("cannot make a socket: ", ErrorText(errno)));
      continue;
    }
    const int on = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    // An address that never answers leaves time for the next.
    const auto share = (until.deadline - Until::Clock::now()) / (addresses.size() - i);
    failure = connection->Connect(&addresses[i].bytes, addresses[i].size,
                                  {Until::Clock::now() + share, until.cancel});
    if (failure.ok()) return connection;
    if (absl::IsCancelled(failure)) break;
  }
  return failure;
}

absl::Status Connection::StartTunnel(const Route& route, const Until& until) {
  constexpr size_t kMaxHeaderBytes = 16 << 10;
  constexpr std::string_view kVersion = "HTTP/1.";
  constexpr size_t kStatusAt = kVersion.size() + 2;  // behind "0 " or "1 "
  const std::string server = route.server.ToString();
  FEDUMM_RETURN_IF_ERROR(Write(absl::StrCat("CONNECT ", server, " HTTP/1.1\r\nHost: ", server,
                                            "\r\n", route.proxy->AuthorizationLine(), "\r\n"),
                               "", until));
  std::string header;
  while (!absl::EndsWith(header, "\r\n\r\n")) {
    char byte = 0;  // one by one: what follows the header comes from the server
    FEDUMM_ASSIGN_OR_RETURN(const size_t got, Read(&byte, 1, until));
    if (got == 0) {
      return absl::UnavailableError(
          absl::StrCat(name_, " closed the connection without an answer to CONNECT ", server));
    }
    header += byte;
    const std::string_view start = std::string_view(header).substr(0, kVersion.size());
    if (start != kVersion.substr(0, start.size()) || header.size() == kMaxHeaderBytes) {
      return absl::FailedPreconditionError(
          absl::StrCat(name_, " is no HTTP proxy: it answers CONNECT with \"",
                       Printable(header, /*max_characters=*/40), "\""));
    }
  }
  int status = 0;
  if (header.size() < kStatusAt + 3 || !absl::SimpleAtoi(header.substr(kStatusAt, 3), &status)) {
    status = 0;
  }
  if (status / 100 == 2) return absl::OkStatus();
  FEDUMM_RETURN_IF_ERROR(ProxyFailure(*route.proxy, route.server, status));
  const std::string text =
      absl::StrCat(name_, " answers CONNECT ", server, " with HTTP status ", status);
  const bool may_pass = status / 100 == 5 || status == 408 || status == 429;
  return may_pass ? absl::UnavailableError(text) : absl::FailedPreconditionError(text);
}

absl::Status Connection::Connect(const void* address, unsigned size, const Until& until) {
  int error = 0;
  if (connect(socket_.get(), static_cast<const sockaddr*>(address), size) != 0) error = errno;
  if (error == EINPROGRESS) {
    FEDUMM_RETURN_IF_ERROR(Wait(POLLOUT, until));
    socklen_t length = sizeof(error);
    getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  }
  if (error == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot connect to ", name_, ": ", ErrorText(error)));
}

absl::Status Connection::StartTls(const TlsClient& tls, const std::string& host,
                                  std::string_view protocols, const Until& until) {
  FEDUMM_ASSIGN_OR_RETURN(tls_, TlsSession::Create(tls, socket_.get(), host, name_, protocols));
  while (true) {
    FEDUMM_ASSIGN_OR_RETURN(const TlsSession::Step step, tls_->Handshake());
    if (step == TlsSession::Step::kDone) return absl::OkStatus();
    FEDUMM_RETURN_IF_ERROR(Await(step, until));
  }
}

absl::Status Connection::Write(std::string_view head, std::string_view body, const Until& until) {
  if (tls_ != nullptr) {
    // Each write makes a TLS record: the first one is filled.
    constexpr size_t kRecord = 16 << 10;
    std::string first(head);
    const size_t with = std::min(body.size(), first.size() < kRecord ? kRecord - first.size() : 0);
    first.append(body.substr(0, with));
    FEDUMM_RETURN_IF_ERROR(WriteTls(first, until));
    return WriteTls(body.substr(with), until);
  }
  while (!head.empty() || !body.empty()) {
    std::array<iovec, 2> parts = {{{const_cast<char*>(head.data()), head.size()},
                                   {const_cast<char*>(body.data()), body.size()}}};
    msghdr message = {};
    message.msg_iov = parts.data();
    message.msg_iovlen = parts.size();
    const ssize_t sent = sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return Lost(name_, errno);
      FEDUMM_RETURN_IF_ERROR(Wait(POLLOUT, until));
      continue;
    }
    const size_t of_head = std::min(head.size(), static_cast<size_t>(sent));
    head.remove_prefix(of_head);
    body.remove_prefix(sent - of_head);
  }
  return absl::OkStatus();
}

absl::Status Connection::WriteTls(std::string_view bytes, const Until& until) {
  while (!bytes.empty()) {
    size_t done = 0;
    FEDUMM_ASSIGN_OR_RETURN(const TlsSession::Step step, tls_->Write(bytes, done));
    if (step == TlsSession::Step::kDone) {
      bytes.remove_prefix(done);
    } else {
      FEDUMM_RETURN_IF_ERROR(Await(step, until));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> Connection::Read(char* data, size_t size, const Until& until) {
  while (true) {
    if (tls_ != nullptr) {
      size_t done = 0;
      FEDUMM_ASSIGN_OR_RETURN(const TlsSession::Step step, tls_->Read(data, size, done));
      if (step == TlsSession::Step::kDone) return done;
      if (step == TlsSession::Step::kEnd) return size_t{0};
      FEDUMM_RETURN_IF_ERROR(Await(step, until));
      continue;
    }
    const ssize_t got = recv(socket_.get(), data, size, 0);
    if (got >= 0) return static_cast<size_t>(got);
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return Lost(name_, errno);
    FEDUMM_RETURN_IF_ERROR(Wait(POLLIN, until));
  }
}

bool Connection::IsSilent() {
  if (tls_ != nullptr) return tls_->IsSilent();
  char byte = 0;
  return recv(socket_.get(), &byte, 1, MSG_PEEK) < 0 && errno == EAGAIN;
}

absl::Status Connection::Await(TlsSession::Step step, const Until& until) {
  if (step == TlsSession::Step::kEnd) {
    return absl::UnavailableError(absl::StrCat(name_, " closed the connection"));
  }
  return Wait(step == TlsSession::Step::kWritable ? POLLOUT : POLLIN, until);
}

absl::Status Connection::Wait(short events, const Until& until) {
  const std::stop_callback wake(until.cancel, [this] {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(waker_.get(), &one, sizeof(one));
  });
  while (true) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(until.deadline - Until::Clock::now());
    std::array<pollfd, 2> watched = {{{socket_.get(), events, 0}, {waker_.get(), POLLIN, 0}}};
    const int ready = poll(watched.data(), watched.size(),
                           static_cast<int>(std::clamp<int64_t>(left.count(), 0, INT32_MAX)));
    if (until.cancel.stop_requested()) return Cancelled();
    if (watched[0].revents != 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return Lost(name_, errno);
    if (ready == 0 && left.count() <= 0) return TooLate(name_);
  }
}

}  // namespace fedumm::transport
