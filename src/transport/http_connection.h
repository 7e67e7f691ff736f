#pragma once

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "transport/body_quota.h"
#include "transport/http_request_parser.h"
#include "transport/http_server.h"
#include "transport/quiet_log.h"

namespace fedumm::transport {

class HttpConnection;
class HttpConnectionExchange;

// What the connections of a server share. They keep it alive.
struct HttpServerState {
  HttpServerState(HttpServer::Options server_options, HttpHandler server_handler)
      : options(std::move(server_options)),
        handler(std::move(server_handler)),
        quota(std::make_shared<BodyQuota>(options.max_pending_body_bytes)) {}

  boost::asio::io_context io;
  const HttpServer::Options options;
  HttpHandler handler;
  std::optional<boost::asio::ssl::context> tls;
  const std::shared_ptr<BodyQuota> quota;
  QuietLog log;

  Mutex mu;
  CondVar closed;
  bool stopping ABSL_GUARDED_BY(mu) = false;
  std::unordered_map<HttpConnection*, std::weak_ptr<HttpConnection>> connections
      ABSL_GUARDED_BY(mu);
};

// One connection of a peer. All calls but Run are made on the strand. Pending operations and the
// unanswered exchange keep it alive.
class HttpConnection final : public std::enable_shared_from_this<HttpConnection> {
 public:
  explicit HttpConnection(std::shared_ptr<HttpServerState> shared);

  boost::asio::ip::tcp::socket& socket() { return socket_; }
  const std::shared_ptr<HttpServerState>& shared() const { return shared_; }

  // Calls `call` on the strand, at once if the caller runs on it. False, without the call, if the
  // connection is closed. May be called from any thread.
  template <typename Call>
  bool Run(Call call) {
    if (strand_.running_in_this_thread()) {
      if (state_ == State::kClosed) return false;
      call();
      return true;
    }
    MutexLock lock(mu_);
    if (!open_) return false;
    boost::asio::post(strand_,
                      [self = shared_from_this(), call = std::move(call)]() mutable { call(); });
    return true;
  }

  void Start();
  void BeginShutdown();
  void Close();

  void Answer(HttpResponse response, std::shared_ptr<HttpConnectionExchange> exchange);
  void StartStream(const std::string& content_type);
  void WritePiece(std::string piece);
  void FinishStream(std::shared_ptr<HttpConnectionExchange> exchange);

 private:
  using Clock = std::chrono::steady_clock;
  using Strand = boost::asio::strand<boost::asio::io_context::executor_type>;

  enum class State {
    kHandshake,
    kHeader,    // between requests, or in a header
    kContinue,  // "100 Continue" is being sent
    kBody,      // of known length
    kChunks,
    kQuota,     // a large body waits for memory
    kBusy,      // a request is handled, until its answer is sent
    kDraining,  // the answer is sent; the peer still sends
    kClosed,
  };

  void OnHandshake(const boost::system::error_code& error);
  void Advance();
  // Each returns true if it can be called on: there is more to do now.
  bool ParseHeader();
  bool BeginBody();
  bool TakeBody();
  bool ParseChunks();
  bool ReserveBody(int64_t num_bytes);
  Reservation Reserved(int64_t num_bytes);  // what was granted
  void OnReserved(int64_t num_bytes);
  void Dispatch();
  void Refuse(int status, std::string_view detail);

  void Read();
  void OnRead(const boost::system::error_code& error, size_t num_bytes, bool into_body);
  void OnPeerGone();
  template <typename Done>
  void Write(std::vector<boost::asio::const_buffer> buffers, Done done);
  std::string FormatHead(int status, const std::string& content_type, std::optional<int64_t> length,
                         const HttpResponse* response);
  void OnAnswered(const boost::system::error_code& error);
  void FlushStream();
  void Linger();

  void SetDeadline(Clock::time_point deadline);
  void SetBodyDeadline(Clock::time_point end);
  // Checks about every second whether a large body that arrives or waits may go on.
  void LookAfterBody();
  // The peer whose share of the quota a body takes.
  std::string QuotaPeer() const;
  void ArmTimer();
  void OnDeadline();
  Clock::time_point ProgressDeadline() const;
  // When a transfer of that many bytes must be over at the latest.
  Clock::time_point TransferEnd(int64_t num_bytes) const;
  std::string Peer() const;

  const std::shared_ptr<HttpServerState> shared_;
  const Strand strand_;
  boost::asio::ip::tcp::socket socket_;
  std::optional<boost::asio::ssl::stream<boost::asio::ip::tcp::socket&>> tls_;  // none: plaintext
  bool raw_ = true;  // whether bytes are read and written without `tls_`
  boost::asio::ip::tcp::endpoint peer_;

  Mutex mu_;
  bool open_ ABSL_GUARDED_BY(mu_) = true;

  State state_ = State::kHandshake;
  bool stopping_ = false;

  boost::asio::steady_timer timer_;
  Clock::time_point deadline_ = Clock::time_point::max();
  Clock::time_point timer_at_ = Clock::time_point::max();
  Clock::time_point transfer_end_ = Clock::time_point::max();
  Clock::time_point body_end_ =
      Clock::time_point::max();  // unless a body, or its wait for memory, makes progress
  Clock::time_point look_at_ = Clock::time_point::max();  // when a large body is checked

  std::vector<char> chunk_;  // what a read writes to, unless that is the body
  bool reading_ = false;
  std::string in_;  // read, and not parsed yet
  size_t searched_ = 0;
  bool header_begun_ = false;
  bool served_ = false;  // a request before this one
  std::optional<RequestParser> parser_;
  State after_quota_ = State::kBody;
  int64_t max_body_ = 0;
  int64_t body_length_ = 0;
  int64_t body_have_ = 0;
  Reservation reservation_;
  bool http10_ = false;
  bool keep_alive_ = true;
  bool is_head_ = false;
  bool peer_gone_ = false;

  std::weak_ptr<HttpConnectionExchange> asked_;        // the request that waits for its answer
  std::shared_ptr<HttpConnectionExchange> answering_;  // whose answer is being sent
  bool writing_ = false;
  std::string head_;
  HttpResponse response_;
  bool streaming_ = false;
  bool stream_chunked_ = false;
  bool stream_finished_ = false;
  std::vector<std::string> stream_waiting_;
  std::vector<std::string> stream_sending_;
  int64_t stream_waiting_bytes_ = 0;  // of pieces, without what frames them
  int64_t stream_sending_bytes_ = 0;
};

}  // namespace fedumm::transport
