#include "tests/transport/raw_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/text.h"

namespace fedumm::testing {
namespace {

void Check(bool ok, const char* what) {
  if (!ok) throw std::runtime_error(what);
}

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;
Bio BioOf(const std::string& text) {
  return {BIO_new_mem_buf(text.data(), static_cast<int>(text.size())), &BIO_free};
}

SSL_CTX* NewContext(const ServerTls& tls, const std::string& alpn) {
  SSL_CTX* const context = SSL_CTX_new(TLS_server_method());
  X509* const certificate =
      PEM_read_bio_X509(BioOf(tls.certificate_chain).get(), nullptr, nullptr, nullptr);
  EVP_PKEY* const key =
      PEM_read_bio_PrivateKey(BioOf(tls.private_key).get(), nullptr, nullptr, nullptr);
  Check(SSL_CTX_use_certificate(context, certificate) == 1 &&
            SSL_CTX_use_PrivateKey(context, key) == 1,
        "bad server certificate");
  X509_free(certificate);
  EVP_PKEY_free(key);
  if (!tls.client_ca.empty()) {
    X509* const ca = PEM_read_bio_X509(BioOf(tls.client_ca).get(), nullptr, nullptr, nullptr);
    X509_STORE_add_cert(SSL_CTX_get_cert_store(context), ca);
    X509_free(ca);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  }
  if (!alpn.empty()) {
    SSL_CTX_set_alpn_select_cb(
        context,
        [](SSL*, const unsigned char** out, unsigned char* size, const unsigned char*, unsigned,
           void* wanted) {
          const auto& name = *static_cast<const std::string*>(wanted);
          *out = reinterpret_cast<const unsigned char*>(name.data());
          *size = static_cast<unsigned char>(name.size());
          return SSL_TLSEXT_ERR_OK;
        },
        const_cast<std::string*>(&alpn));
  }
  return context;
}

}  // namespace

RawPeer::RawPeer(int fd, ssl_ctx_st* tls, std::stop_token stop) : fd_(fd), stop_(std::move(stop)) {
  const timeval patience = {.tv_sec = 20, .tv_usec = 0};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  if (tls == nullptr) return;
  ssl_ = SSL_new(tls);
  SSL_set_fd(ssl_, fd_);
  usable_ = SSL_accept(ssl_) == 1;
  ERR_clear_error();
}

RawPeer::~RawPeer() {
  if (ssl_ != nullptr && usable_) SSL_shutdown(ssl_);
  SSL_free(ssl_);
  if (fd_ >= 0) close(fd_);
  ERR_clear_error();
}

std::string RawPeer::Receive() {
  if (!usable_) return "";
  std::string bytes(64 << 10, '\0');
  const ssize_t got = ssl_ != nullptr ? SSL_read(ssl_, bytes.data(), static_cast<int>(bytes.size()))
                                      : recv(fd_, bytes.data(), bytes.size(), 0);
  bytes.resize(got > 0 ? got : 0);
  return bytes;
}

std::string RawPeer::ReceiveRequest() {
  while (true) {
    const size_t end = rest_.find("\r\n\r\n");
    if (end != std::string::npos) {
      const size_t length = rest_.find("Content-Length: ");
      const size_t size = length < end ? std::strtoul(&rest_[length + 16], nullptr, 10) : 0;
      if (rest_.size() >= end + 4 + size) {
        std::string request = rest_.substr(0, end + 4 + size);
        rest_.erase(0, request.size());
        return request;
      }
    }
    const std::string more = Receive();
    if (more.empty()) return "";
    rest_ += more;
  }
}

void RawPeer::Send(std::string_view bytes) {
  while (usable_ && !bytes.empty()) {
    const ssize_t sent = ssl_ != nullptr
                             ? SSL_write(ssl_, bytes.data(), static_cast<int>(bytes.size()))
                             : send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;
    bytes.remove_prefix(sent);
  }
}

void RawPeer::Answer(int status, std::string_view body, std::string_view headers) {
  Send(absl::StrCat("HTTP/1.1 ", status, " Some Reason\r\n", Text(headers),
                    "Content-Length: ", body.size(), "\r\n\r\n", Text(body)));
}

void RawPeer::AwaitEnd() {
  constexpr int kTickMs = 20;  // a test that stops the server does not wait for its client
  std::array<char, 4096> ignored;
  while (!stop_.stop_requested()) {
    pollfd watched = {fd_, POLLIN, 0};
    if (poll(&watched, 1, kTickMs) > 0 && recv(fd_, ignored.data(), ignored.size(), 0) <= 0) return;
  }
}

void RawPeer::Reset() {
  const linger hard = {.l_onoff = 1, .l_linger = 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
  close(std::exchange(fd_, -1));
}

RawServer::RawServer(Options options, Serve serve)
    : options_(std::move(options)), serve_(std::move(serve)) {
  if (options_.tls.has_value()) {
    std::signal(SIGPIPE, SIG_IGN);  // of this server's OpenSSL only; the client must not need it
    context_ = NewContext(*options_.tls, options_.alpn);
  }
  const bool is_v6 = std::string_view(options_.host).find(':') != std::string_view::npos;
  sockaddr_storage address = {};
  socklen_t size = 0;
  if (is_v6) {
    auto& v6 = reinterpret_cast<sockaddr_in6&>(address);
    v6.sin6_family = AF_INET6;
    inet_pton(AF_INET6, options_.host, &v6.sin6_addr);
    size = sizeof(v6);
  } else {
    auto& v4 = reinterpret_cast<sockaddr_in&>(address);
    v4.sin_family = AF_INET;
    inet_pton(AF_INET, options_.host, &v4.sin_addr);
    size = sizeof(v4);
  }
  listener_ = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  Check(bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0, "cannot bind");
  Check(listen(listener_, 64) == 0, "cannot listen");
  Check(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0, "no name");
  port_ = ntohs(is_v6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                      : reinterpret_cast<sockaddr_in&>(address).sin_port);
  thread_ = std::jthread([this](const std::stop_token& stop) { Run(stop); });
}

RawServer::~RawServer() {
  thread_.request_stop();
  thread_.join();
  for (std::jthread& thread : serving_) thread.request_stop();
  serving_.clear();
  close(listener_);
  SSL_CTX_free(context_);
}

std::string RawServer::address() const {
  const bool is_v6 = std::string_view(options_.host).find(':') != std::string_view::npos;
  return is_v6 ? absl::StrCat("[", options_.host, "]:", port_)
               : absl::StrCat(options_.host, ":", port_);
}

void RawServer::Run(const std::stop_token& stop) {
  constexpr int kTickMs = 20;
  while (!stop.stop_requested()) {
    pollfd watched = {listener_, POLLIN, 0};
    if (poll(&watched, 1, kTickMs) <= 0) continue;
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) continue;
    const int connection = num_connections_++;
    if (options_.parallel) {
      serving_.emplace_back([this, fd, connection](const std::stop_token& serving_stop) {
        RawPeer peer(fd, context_, serving_stop);
        serve_(peer, connection);
      });
    } else {
      RawPeer peer(fd, context_, stop);
      serve_(peer, connection);
    }
  }
}

}  // namespace fedumm::testing
