#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"

namespace fedumm {

// A TCP client of a server on loopback, byte by byte; with TLS once StartTls was called. Blocking:
// no call takes longer than ten seconds.
class RawClient {
 public:
  struct Answer {
    int status = 0;                              // 0: the connection ended before the answer did
    std::map<std::string, std::string> headers;  // names in lower case
    std::string body;
  };

  // `receive_buffer`: bytes that the system keeps for a peer that does not read; 0: as usual.
  explicit RawClient(int port, int receive_buffer = 0) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    const timeval timeout{.tv_sec = 10};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    if (receive_buffer > 0) {
      setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
    }
    sockaddr_in address{.sin_family = AF_INET, .sin_port = htons(static_cast<uint16_t>(port))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~RawClient() { Close(); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool connected() const { return connected_; }

  // Trusts nobody but `ca`; `certificate` and `private_key` (PEM) may be empty. False if the
  // handshake failed.
  bool StartTls(const std::string& ca, const std::string& certificate = "",
                const std::string& private_key = "", int max_version = TLS1_3_VERSION) {
    context_.reset(SSL_CTX_new(TLS_client_method()));
    SSL_CTX_set_security_level(context_.get(), 0);  // allows old versions, to be refused
    SSL_CTX_set_max_proto_version(context_.get(), max_version);
    SSL_CTX_set_verify(context_.get(), SSL_VERIFY_PEER, nullptr);
    X509_STORE_add_cert(SSL_CTX_get_cert_store(context_.get()), ReadCertificate(ca).get());
    if (!certificate.empty()) {
      SSL_CTX_use_certificate(context_.get(), ReadCertificate(certificate).get());
      const std::unique_ptr<BIO, Free> bio(BIO_new_mem_buf(private_key.data(), -1));
      const std::unique_ptr<EVP_PKEY, Free> key(
          PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
      SSL_CTX_use_PrivateKey(context_.get(), key.get());
    }
    ssl_.reset(SSL_new(context_.get()));
    SSL_set1_host(ssl_.get(), "localhost");
    SSL_set_fd(ssl_.get(), fd_);
    return SSL_connect(ssl_.get()) == 1;
  }

  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ssl_ != nullptr
                               ? SSL_write(ssl_.get(), bytes.data(), static_cast<int>(bytes.size()))
                               : send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  // What comes next; empty at the end of the connection.
  std::string ReadSome(size_t max_bytes = 1 << 16) {
    std::string bytes(max_bytes, '\0');
    const ssize_t got = ssl_ != nullptr
                            ? SSL_read(ssl_.get(), bytes.data(), static_cast<int>(bytes.size()))
                            : recv(fd_, bytes.data(), bytes.size(), 0);
    bytes.resize(got > 0 ? static_cast<size_t>(got) : 0);
    timed_out_ = got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
    return bytes;
  }
  // The next answer, final or not. That to a HEAD has no body whatever its header says.
  Answer ReadAnswer(bool to_head = false) {
    Answer answer;
    const std::optional<std::string> head = ReadThrough("\r\n\r\n");
    if (!head.has_value()) return answer;
    size_t line = head->find("\r\n") + 2;
    while (line < head->size() - 2) {
      const size_t colon = head->find(": ", line);
      const size_t end = head->find("\r\n", line);
      answer.headers[absl::AsciiStrToLower(head->substr(line, colon - line))] =
          head->substr(colon + 2, end - colon - 2);
      line = end + 2;
    }
    if (!to_head) {
      std::optional<std::string> body;
      if (answer.headers.contains("content-length")) {
        size_t size = 0;
        if (!absl::SimpleAtoi(answer.headers["content-length"], &size)) return answer;
        body = ReadBytes(size);
      } else if (answer.headers.contains("transfer-encoding")) {
        body = ReadChunks();
      } else {
        body.emplace();
      }
      if (!body.has_value()) return answer;
      answer.body = *std::move(body);
    }
    if (!absl::SimpleAtoi(head->substr(head->find(' ') + 1, 3), &answer.status)) answer.status = 0;
    return answer;
  }
  // Up to the end of the connection.
  std::string ReadAll() {
    std::string all = std::exchange(buffer_, {});
    for (std::string more; !(more = ReadSome()).empty();) all += more;
    return all;
  }
  // Whether the server ends the connection without another byte.
  bool IsEnded() { return buffer_.empty() && ReadSome().empty() && !timed_out_; }

  void CloseHalf() { shutdown(fd_, SHUT_WR); }
  void Close() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }
  // So that the server gets a reset.
  void Reset() {
    const linger now{.l_onoff = 1, .l_linger = 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    Close();
  }

 private:
  struct Free {
    void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
    void operator()(SSL* ssl) const { SSL_free(ssl); }
    void operator()(BIO* bio) const { BIO_free(bio); }
    void operator()(X509* certificate) const { X509_free(certificate); }
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  };

  static std::unique_ptr<X509, Free> ReadCertificate(const std::string& pem) {
    const std::unique_ptr<BIO, Free> bio(BIO_new_mem_buf(pem.data(), -1));
    return std::unique_ptr<X509, Free>(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  }
  std::optional<std::string> ReadThrough(std::string_view mark) {
    size_t at = 0;
    while ((at = buffer_.find(mark)) == std::string::npos) {
      const std::string more = ReadSome();
      if (more.empty()) return std::nullopt;
      buffer_ += more;
    }
    std::string text = buffer_.substr(0, at + mark.size());
    buffer_.erase(0, text.size());
    return text;
  }
  std::optional<std::string> ReadBytes(size_t size) {
    while (buffer_.size() < size) {
      const std::string more = ReadSome();
      if (more.empty()) return std::nullopt;
      buffer_ += more;
    }
    std::string bytes = buffer_.substr(0, size);
    buffer_.erase(0, size);
    return bytes;
  }
  std::optional<std::string> ReadChunks() {
    std::string body;
    while (true) {
      const std::optional<std::string> line = ReadThrough("\r\n");
      if (!line.has_value()) return std::nullopt;
      const size_t size = std::stoul(*line, nullptr, 16);
      const std::optional<std::string> chunk = ReadBytes(size + 2);
      if (!chunk.has_value()) return std::nullopt;
      if (size == 0) return body;
      body += chunk->substr(0, size);
    }
  }

  int fd_;
  bool connected_ = false;
  bool timed_out_ = false;
  std::string buffer_;  // read, and not asked for yet
  std::unique_ptr<SSL_CTX, Free> context_;
  std::unique_ptr<SSL, Free> ssl_;
};

}  // namespace fedumm
