#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "fedumm/tls.h"

struct ssl_st;
struct ssl_ctx_st;

namespace fedumm::testing {

// One accepted connection of a RawServer.
class RawPeer {
 public:
  RawPeer(int fd, ssl_ctx_st* tls, std::stop_token stop);
  ~RawPeer();
  RawPeer(const RawPeer&) = delete;
  RawPeer& operator=(const RawPeer&) = delete;

  // What one read gives; "" at the end.
  std::string Receive();
  // A whole request with Content-Length, or "" if the client left.
  std::string ReceiveRequest();
  void Send(std::string_view bytes);
  // HTTP with Content-Length.
  void Answer(int status, std::string_view body, std::string_view headers = "");
  // Until the client hangs up or the server is stopped.
  void AwaitEnd();
  bool is_stopped() const { return stop_.stop_requested(); }
  int fd() const { return fd_; }
  // Ends with RST instead of FIN.
  void Reset();

 private:
  int fd_;
  std::stop_token stop_;
  ssl_st* ssl_ = nullptr;
  bool usable_ = true;  // false if the TLS handshake failed
  std::string rest_;
};

// A server on loopback that does with each connection, one after the other or, if `parallel`, at
// the same time, what a test says. Port 0.
class RawServer {
 public:
  struct Options {
    std::optional<ServerTls> tls;
    std::string alpn;  // what it picks from the client's offer, "" for none
    bool parallel = false;
    const char* host = "127.0.0.1";
  };
  using Serve = std::function<void(RawPeer& peer, int connection)>;  // counted from 0

  explicit RawServer(Serve serve) : RawServer(Options(), std::move(serve)) {}
  RawServer(Options options, Serve serve);
  ~RawServer();

  int port() const { return port_; }
  std::string address() const;
  int num_connections() const { return num_connections_; }

 private:
  void Run(const std::stop_token& stop);

  const Options options_;
  const Serve serve_;
  ssl_ctx_st* context_ = nullptr;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<int> num_connections_ = 0;
  std::vector<std::jthread> serving_;
  std::jthread thread_;
};

}  // namespace fedumm::testing
