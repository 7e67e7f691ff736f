// ThreadSanitizer knows no fences; without them, Asio's locks order all that its handlers do.
#ifdef __SANITIZE_THREAD__
#define BOOST_ASIO_DISABLE_FENCED_BLOCK
#endif

#include "transport/http_server.h"

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/host_port.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "transport/certificates.h"
#include "transport/http_connection.h"
#include "transport/quiet_log.h"

namespace fedumm::transport {
namespace {

namespace asio = boost::asio;
namespace ssl = boost::asio::ssl;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using Strand = asio::strand<asio::io_context::executor_type>;

constexpr auto kShutdownTimeout = absl::Seconds(2);
constexpr auto kAcceptPause = std::chrono::milliseconds(100);
constexpr auto kNever = Clock::time_point::max();

absl::Status SslError(absl::string_view what, const error_code& error) {
  return absl::InvalidArgumentError(absl::StrCat(what, ": ", error.message()));
}

absl::Status SetUpTls(const ServerTls& tls, ssl::context& context) {
  FEDUMM_RETURN_IF_ERROR(CheckServerTls(tls));
  error_code error;
  context.set_options(
      ssl::context::default_workarounds | ssl::context::no_compression | SSL_OP_NO_RENEGOTIATION,
      error);
  SSL_CTX_set_min_proto_version(context.native_handle(), TLS1_2_VERSION);
  context.use_certificate_chain(asio::buffer(tls.certificate_chain), error);
  if (error) return SslError("the server's certificate cannot be read", error);
  context.use_private_key(asio::buffer(tls.private_key), ssl::context::pem, error);
  if (error) return SslError("the private key does not fit or cannot be read", error);
  const std::string_view id = "fedumm";
  SSL_CTX_set_session_id_context(context.native_handle(),
                                 reinterpret_cast<const unsigned char*>(id.data()),
                                 static_cast<unsigned>(id.size()));
  if (tls.client_ca.empty()) return absl::OkStatus();
  context.add_certificate_authority(asio::buffer(tls.client_ca), error);
  if (error) return SslError("the CA of the clients cannot be read", error);
  context.set_verify_mode(ssl::verify_peer | ssl::verify_fail_if_no_peer_cert, error);
  return absl::OkStatus();
}
}  // namespace

std::string_view HttpRequest::Header(std::string_view name) const {
  const auto it = headers.find(name);
  return it == headers.end() ? std::string_view() : std::string_view(it->second);
}

class HttpServer::Impl {
 public:
  Impl(Options options, HttpHandler handler)
      : shared_(std::make_shared<HttpServerState>(std::move(options), std::move(handler))),
        work_(shared_->io.get_executor()) {}

  // Only std::bad_alloc can be thrown here.
  ~Impl() {  // NOLINT(bugprone-exception-escape)
    Shutdown();
    work_.reset();
    for (std::thread& thread : threads_) thread.join();
    shared_->handler = nullptr;
  }

  absl::Status Listen() {
    const Options& options = shared_->options;
    if (options.tls.has_value()) {
      shared_->tls.emplace(ssl::context::tls_server);
      FEDUMM_RETURN_IF_ERROR(SetUpTls(*options.tls, *shared_->tls));
    }
    FEDUMM_ASSIGN_OR_RETURN(const HostPort address, HostPort::ParseListener(options.address));
    error_code error;
    tcp::resolver resolver(shared_->io);
    const auto endpoints =
        resolver.resolve(address.host, absl::StrCat(address.port), tcp::resolver::passive, error);
    if (error) return CannotListen(error);
    // A name may have several addresses; they all get the same port.
    for (tcp::endpoint endpoint : endpoints) {
      if (port_ != 0) endpoint.port(static_cast<uint16_t>(port_));
      auto acceptor = std::make_unique<Acceptor>(shared_->io);
      error = acceptor->Open(endpoint);
      if (error) continue;
      port_ = acceptor->socket.local_endpoint().port();
      acceptors_.push_back(std::move(acceptor));
    }
    return acceptors_.empty() ? CannotListen(error) : absl::OkStatus();
  }

  void Run() {
    const unsigned num_threads = std::clamp(std::thread::hardware_concurrency(), 2U, 4U);
    for (unsigned i = 0; i < num_threads; ++i) {
      threads_.emplace_back([&io = shared_->io] { io.run(); });
    }
    for (const auto& acceptor : acceptors_) {
      asio::post(acceptor->strand, [this, &acceptor = *acceptor] { Accept(acceptor); });
    }
  }

  int port() const { return port_; }

  void Shutdown() {
    {
      MutexLock lock(shared_->mu);
      shared_->stopping = true;
    }
    for (const auto& acceptor : acceptors_) {
      asio::post(acceptor->strand, [&acceptor = *acceptor] {
        error_code ignored;
        acceptor.socket.close(ignored);
        acceptor.pause.cancel();
      });
    }
    ForEachConnection([](HttpConnection& connection) { connection.BeginShutdown(); });
    const Clock::time_point end = Clock::now() + absl::ToChronoNanoseconds(kShutdownTimeout);
    WaitForNone(end);
    ForEachConnection([](HttpConnection& connection) { connection.Close(); });
    WaitForNone(kNever);
  }

 private:
  struct Acceptor {
    explicit Acceptor(asio::io_context& io)
        : strand(asio::make_strand(io)), socket(strand), pause(strand) {}

    error_code Open(const tcp::endpoint& endpoint) {
      error_code error;
      socket.open(endpoint.protocol(), error);
      if (!error) socket.set_option(tcp::acceptor::reuse_address(true), error);
      if (!error) socket.bind(endpoint, error);
      if (!error) socket.listen(asio::socket_base::max_listen_connections, error);
      return error;
    }

    Strand strand;
    tcp::acceptor socket;
    asio::steady_timer pause;
  };

  absl::Status CannotListen(const error_code& error) const {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", shared_->options.address, ": ", error.message()));
  }

  void Accept(Acceptor& acceptor) {
    auto connection = std::make_shared<HttpConnection>(shared_);
    acceptor.socket.async_accept(
        connection->socket(), [this, &acceptor, connection](const error_code& error) {
          if (!acceptor.socket.is_open()) return;
          if (!error) {
            Admit(connection);
            Accept(acceptor);
            return;
          }
          // Out of file descriptors, most likely: tries again when some are free.
          shared_->log.Warn(QuietLog::kAccept, shared_->options.address,
                            absl::StrCat("cannot accept a connection: ", error.message()));
          acceptor.pause.expires_after(kAcceptPause);
          acceptor.pause.async_wait([this, &acceptor](const error_code& cancelled) {
            if (!cancelled && acceptor.socket.is_open()) Accept(acceptor);
          });
        });
  }

  void Admit(const std::shared_ptr<HttpConnection>& connection) {
    {
      MutexLock lock(shared_->mu);
      if (shared_->stopping) return;
      if (shared_->connections.size() < static_cast<size_t>(shared_->options.max_connections)) {
        shared_->connections.emplace(connection.get(), connection);
        connection->Run([connection = connection.get()] { connection->Start(); });
        return;
      }
    }
    shared_->log.Warn(QuietLog::kFull, shared_->options.address,
                      absl::StrCat("turned a connection away: there are ",
                                   shared_->options.max_connections, " already"));
  }

  void ForEachConnection(void (*call)(HttpConnection&)) {
    std::vector<std::shared_ptr<HttpConnection>> connections;
    {
      MutexLock lock(shared_->mu);
      for (const auto& [pointer, weak] : shared_->connections) {
        if (std::shared_ptr<HttpConnection> connection = weak.lock()) {
          connections.push_back(std::move(connection));
        }
      }
    }
    for (const std::shared_ptr<HttpConnection>& connection : connections) {
      connection->Run([connection = connection.get(), call] { call(*connection); });
    }
  }

  void WaitForNone(Clock::time_point end) {
    MutexLock lock(shared_->mu);
    while (!shared_->connections.empty()) {
      const Clock::time_point now = Clock::now();
      if (now >= end) return;
      shared_->closed.WaitFor(shared_->mu,
                              end == kNever ? absl::Hours(1) : absl::FromChrono(end - now));
    }
  }

  const std::shared_ptr<HttpServerState> shared_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::vector<std::unique_ptr<Acceptor>> acceptors_;
  int port_ = 0;
  std::vector<std::thread> threads_;
};

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(Options options,
                                                              HttpHandler handler) {
  auto impl = std::make_unique<Impl>(std::move(options), std::move(handler));
  FEDUMM_RETURN_IF_ERROR(impl->Listen());
  impl->Run();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;

int HttpServer::port() const { return impl_->port(); }

void HttpServer::Shutdown() { impl_->Shutdown(); }

}  // namespace fedumm::transport
