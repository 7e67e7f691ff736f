// ThreadSanitizer knows no fences; without them, Asio's locks order all that its handlers do.
#ifdef __SANITIZE_THREAD__
#define BOOST_ASIO_DISABLE_FENCED_BLOCK
#endif

#include "transport/http_connection.h"

#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/ssl/error.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/status.hpp>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/host_port.h"
#include "base/text.h"

namespace fedumm::transport {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
namespace ssl = boost::asio::ssl;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr size_t kReadBytes = 4096;             // into the connection's own buffer
constexpr size_t kChunkedReadBytes = 64 << 10;  // likewise, of a chunked body
constexpr int64_t kFreeBodyBytes = 64 << 10;    // of a body, not counted by the quota
constexpr int64_t kBodyStep = 256 << 10;        // how far a body's string grows ahead of its bytes
constexpr size_t kMaxWrite = 1 << 20;           // handed to the socket at once
constexpr size_t kCopyBelow = 16 << 10;  // a body this small is sent from the buffer of the header
constexpr int64_t kMinBytesPerSecond = 64 << 10;
constexpr int64_t kMaxStreamBytes = int64_t{8} << 20;
constexpr size_t kMaxChunkHeaderBytes = 16 << 10;
constexpr auto kHandshakeTimeout = std::chrono::seconds(10);
constexpr auto kLookAfter = std::chrono::seconds(1);
constexpr auto kLingerTimeout = std::chrono::seconds(2);
constexpr auto kNever = Clock::time_point::max();

Clock::duration ToClock(absl::Duration duration) {
  return std::chrono::duration_cast<Clock::duration>(
      absl::ToChronoNanoseconds(std::min(duration, absl::Hours(24 * 365))));
}

bool IsEndOfStream(const error_code& error) {
  return error == asio::error::eof || error == ssl::error::stream_truncated;
}

}  // namespace

class HttpConnectionExchange final : public HttpExchange,
                                     public std::enable_shared_from_this<HttpConnectionExchange> {
 public:
  HttpConnectionExchange(std::shared_ptr<HttpConnection> connection, HttpRequest request,
                         Reservation reservation)
      : connection_(std::move(connection)),
        request_(std::move(request)),
        reservation_(std::move(reservation)) {}
  // Only std::bad_alloc can be thrown here.
  ~HttpConnectionExchange() override {  // NOLINT(bugprone-exception-escape)
    if (!answered_) {
      connection_->Run([connection = connection_.get()] {
        connection->Answer({.status = 503,
                            .content_type = "application/json",
                            .body = R"({"detail":"the request was not answered"})"},
                           nullptr);
      });
    } else if (streaming_ && !finished_) {
      // Close: the peer must not mistake the part that it has for the whole answer.
      connection_->Run([connection = connection_.get()] { connection->Close(); });
    }
  }

  HttpRequest& request() override { return request_; }

  void OnGone(std::function<void()> on_gone) override {
    {
      MutexLock lock(mu_);
      if (done_) return;
      if (!gone_) {
        on_gone_ = std::move(on_gone);
        return;
      }
    }
    on_gone();
  }

  void Respond(HttpResponse response) override {
    {
      MutexLock lock(mu_);
      if (std::exchange(answered_, true)) return;
    }
    reservation_.Release();
    connection_->Run([connection = connection_.get(), response = std::move(response),
                      self = shared_from_this()]() mutable {
      connection->Answer(std::move(response), std::move(self));
    });
  }

  void StartStream(std::string content_type) override {
    {
      MutexLock lock(mu_);
      if (std::exchange(answered_, true)) return;
      streaming_ = true;
    }
    reservation_.Release();
    connection_->Run([connection = connection_.get(), content_type = std::move(content_type)] {
      connection->StartStream(content_type);
    });
  }

  bool Write(std::string piece) override {
    {
      MutexLock lock(mu_);
      if (!streaming_ || finished_ || gone_ || waiting_bytes_ >= kMaxStreamBytes) return false;
      waiting_bytes_ += static_cast<int64_t>(piece.size());
    }
    return connection_->Run([connection = connection_.get(), piece = std::move(piece)]() mutable {
      connection->WritePiece(std::move(piece));
    });
  }

  void Finish() override {
    {
      MutexLock lock(mu_);
      if (!streaming_ || std::exchange(finished_, true)) return;
    }
    connection_->Run([connection = connection_.get(), self = shared_from_this()]() mutable {
      connection->FinishStream(std::move(self));
    });
  }

  // Called by the connection, on its strand.

  void Gone() {
    std::function<void()> on_gone;
    {
      MutexLock lock(mu_);
      if (done_ || std::exchange(gone_, true)) return;
      on_gone = std::exchange(on_gone_, nullptr);
    }
    if (on_gone) on_gone();
  }
  void Done() {
    std::function<void()> on_gone;  // destroyed after the lock
    MutexLock lock(mu_);
    done_ = true;
    on_gone = std::exchange(on_gone_, nullptr);
  }
  void Written(int64_t num_bytes) {
    MutexLock lock(mu_);
    waiting_bytes_ -= num_bytes;
  }

 private:
  const std::shared_ptr<HttpConnection> connection_;
  HttpRequest request_;
  Reservation reservation_;
  Mutex mu_;
  std::function<void()> on_gone_ ABSL_GUARDED_BY(mu_);
  bool gone_ ABSL_GUARDED_BY(mu_) = false;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
  bool answered_ ABSL_GUARDED_BY(mu_) = false;
  bool streaming_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  int64_t waiting_bytes_ ABSL_GUARDED_BY(mu_) = 0;
};
HttpConnection::HttpConnection(std::shared_ptr<HttpServerState> shared)
    : shared_(std::move(shared)),
      strand_(asio::make_strand(shared_->io)),
      socket_(strand_),
      timer_(strand_) {}

void HttpConnection::Start() {
  error_code ignored;
  peer_ = socket_.remote_endpoint(ignored);
  socket_.set_option(tcp::no_delay(true), ignored);
  // Detects a peer that disconnects while it waits for an answer.
  socket_.set_option(asio::socket_base::keep_alive(true), ignored);
  const int idle_seconds = 60;
  setsockopt(socket_.native_handle(), IPPROTO_TCP, TCP_KEEPIDLE, &idle_seconds,
             sizeof(idle_seconds));
  if (!shared_->tls.has_value()) {
    state_ = State::kHeader;
    Advance();
    return;
  }
  tls_.emplace(socket_, *shared_->tls);
  SetDeadline(Clock::now() + kHandshakeTimeout);
  tls_->async_handshake(
      ssl::stream_base::server,
      [self = shared_from_this()](const error_code& error) { self->OnHandshake(error); });
}

void HttpConnection::OnHandshake(const error_code& error) {
  if (state_ == State::kClosed) return;
  if (!error) {
    raw_ = false;
    state_ = State::kHeader;
    Advance();
    return;
  }
  if (error.category() == asio::error::get_ssl_category() &&
      ERR_GET_REASON(static_cast<uint64_t>(error.value())) == SSL_R_HTTP_REQUEST) {
    shared_->log.Warn(QuietLog::kPlaintext, Peer(), "sent plaintext to a TLS port");
    Refuse(400, "this port speaks TLS, and the request came in plaintext");
    return;
  }
  if (!IsEndOfStream(error) && error != asio::error::connection_reset) {
    shared_->log.Warn(QuietLog::kHandshake, Peer(),
                      absl::StrCat("the TLS handshake failed: ", error.message()));
  }
  Close();
}

void HttpConnection::BeginShutdown() {
  stopping_ = true;
  if (state_ == State::kHandshake || (state_ == State::kHeader && in_.empty())) Close();
}

void HttpConnection::Close() {
  if (state_ == State::kClosed) return;
  const std::shared_ptr<HttpConnection> self = shared_from_this();
  state_ = State::kClosed;
  {
    MutexLock lock(mu_);
    open_ = false;
  }
  error_code ignored;
  socket_.close(ignored);
  timer_.cancel();
  shared_->quota->Withdraw(this);
  reservation_.Release();
  if (const std::shared_ptr<HttpConnectionExchange> exchange = asked_.lock()) exchange->Gone();
  if (const std::shared_ptr<HttpConnectionExchange> exchange = std::exchange(answering_, nullptr)) {
    exchange->Gone();
  }
  MutexLock lock(shared_->mu);
  shared_->connections.erase(this);
  shared_->closed.NotifyAll();
}

// Processes the bytes that were read until more are needed.
void HttpConnection::Advance() {
  while (true) {
    switch (state_) {
      case State::kHeader:
        if (!ParseHeader()) return;
        break;
      case State::kBody:
        if (!TakeBody()) return;
        break;
      case State::kChunks:
        if (!ParseChunks()) return;
        break;
      case State::kBusy:
        Read();  // detects a peer that disconnects
        return;
      case State::kHandshake:
      case State::kContinue:
      case State::kQuota:
      case State::kDraining:
      case State::kClosed:
        return;
    }
  }
}

bool HttpConnection::ParseHeader() {
  if (!header_begun_) {
    in_.erase(0, std::min(in_.find_first_not_of("\r\n"), in_.size()));
    if (in_.empty()) {
      if (stopping_ || peer_gone_) {
        Close();
        return false;
      }
      SetDeadline(Clock::now() + ToClock(served_ ? shared_->options.idle_timeout
                                                 : shared_->options.progress_timeout));
      Read();
      return false;
    }
    header_begun_ = true;
    searched_ = 0;
    SetDeadline(Clock::now() + ToClock(shared_->options.progress_timeout));
    if (!absl::ascii_isalpha(static_cast<unsigned char>(in_[0]))) {
      if (in_[0] == '\x16') {
        shared_->log.Warn(QuietLog::kTls, Peer(), "sent TLS to a plaintext port");
      }
      Refuse(400, "this is no HTTP request");
      return true;
    }
  }
  const auto max_header = static_cast<size_t>(shared_->options.max_header_bytes);
  const size_t end = in_.find("\r\n\r\n", searched_);
  if (std::min(end, in_.size()) > max_header) {
    Refuse(431, absl::StrCat("the header is longer than ", max_header, " bytes"));
    return true;
  }
  if (end == std::string::npos) {
    searched_ = in_.size() < 3 ? 0 : in_.size() - 3;
    if (peer_gone_) {
      Close();
    } else {
      Read();
    }
    return false;
  }
  const size_t head_bytes = end + 4;
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(head_bytes + 1));
  parser_->body_limit(static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
  error_code error;
  const size_t parsed = parser_->put(asio::const_buffer(in_.data(), head_bytes), error);
  if (error == http::error::body_limit) {
    Refuse(413, "the body is longer than any may be");
    return true;
  }
  if (error || !parser_->is_header_done() || parsed != head_bytes) {
    Refuse(400, "the HTTP header is malformed");
    return true;
  }
  in_.erase(0, head_bytes);
  header_begun_ = false;
  parser_->request.head_bytes = static_cast<int64_t>(head_bytes);
  return BeginBody();
}

bool HttpConnection::BeginBody() {
  HttpRequest& request = parser_->request;
  keep_alive_ = parser_->keep_alive();
  http10_ = parser_->http10;
  is_head_ = request.method == "HEAD";
  for (const std::string_view scheme :
       {"http://", "https://"}) {  // absolute form, as sent to a proxy
    if (!request.path.starts_with(scheme)) continue;
    const size_t slash = request.path.find('/', scheme.size());
    request.path = slash == std::string::npos ? "/" : request.path.substr(slash);
    break;
  }
  request.path.resize(std::min(request.path.find_first_of("?#"), request.path.size()));
  if (parser_->odd_encoding) {
    Refuse(501, "no other transfer encoding than `chunked` is known");
    return true;
  }
  const bool chunked = parser_->chunked();
  const auto length = static_cast<int64_t>(parser_->content_length().value_or(0));
  const std::string_view expect = request.Header("expect");
  if (!expect.empty() && !absl::EqualsIgnoreCase(Text(expect), "100-continue")) {
    Refuse(417, "no other expectation than `100-continue` is known");
    return true;
  }
  if (!chunked && length == 0) {
    Dispatch();
    return true;
  }
  const HttpServer::Options& options = shared_->options;
  max_body_ = options.max_body_of ? options.max_body_of(request) : options.max_body_bytes;
  if (length > max_body_) {
    Refuse(413, absl::StrCat("the body is longer than ", max_body_));
    return true;
  }
  parser_->body_limit(static_cast<uint64_t>(max_body_));
  look_at_ = kNever;
  body_length_ = length;
  body_have_ = 0;
  transfer_end_ = TransferEnd(chunked ? max_body_ : length);
  if (chunked) parser_->eager(true);
  const State next = chunked ? State::kChunks : State::kBody;
  if (expect.empty() || http10_ || !in_.empty()) {
    state_ = next;
    return true;
  }
  state_ = State::kContinue;
  head_ = "HTTP/1.1 100 Continue\r\n\r\n";
  Write({asio::buffer(head_)}, [this, next](const error_code& error) {
    if (error) {
      Close();
    } else {
      state_ = next;
      Advance();
    }
  });
  return false;
}

bool HttpConnection::TakeBody() {
  std::string& body = parser_->request.body;
  const int64_t num_taken = std::min(static_cast<int64_t>(in_.size()), body_length_ - body_have_);
  if (num_taken > 0) {
    if (static_cast<int64_t>(body.size()) < body_have_ + num_taken) {
      body.resize(body_have_ + num_taken);
    }
    std::copy_n(in_.begin(), num_taken, body.begin() + body_have_);
    in_.erase(0, num_taken);
    body_have_ += num_taken;
  }
  if (body_have_ == body_length_) {
    Dispatch();
    return true;
  }
  if (peer_gone_) {
    Close();
    return false;
  }
  // More than this is reserved only as bytes arrive.
  if (body_have_ >= kFreeBodyBytes && reservation_.num_bytes() == 0) {
    if (!ReserveBody(body_length_)) return false;
    body.reserve(body_length_);
  }
  SetBodyDeadline(ProgressDeadline());
  Read();
  return false;
}

bool HttpConnection::ParseChunks() {
  if (in_.size() >= RequestParser::kMinChunkBytes) {
    error_code error;
    const size_t parsed = parser_->put(asio::const_buffer(in_.data(), in_.size()), error);
    if (error == http::error::body_limit) {
      Refuse(413, absl::StrCat("the body is longer than ", max_body_));
      return true;
    }
    if ((error && error != http::error::need_more) || in_.size() - parsed > kMaxChunkHeaderBytes) {
      Refuse(400, "the chunked body is malformed");
      return true;
    }
    in_.erase(0, parsed);
    if (parser_->is_done()) {
      Dispatch();
      return true;
    }
  }
  if (peer_gone_) {
    Close();
    return false;
  }
  if (static_cast<int64_t>(parser_->request.body.size()) >= kFreeBodyBytes &&
      reservation_.num_bytes() == 0 && !ReserveBody(max_body_)) {
    return false;
  }
  SetBodyDeadline(ProgressDeadline());
  Read();
  return false;
}

bool HttpConnection::ReserveBody(int64_t num_bytes) {
  look_at_ = Clock::now() + kLookAfter;
  const bool granted = shared_->quota->Take(
      this, num_bytes, QuotaPeer(), Clock::now(), [self = shared_from_this(), num_bytes] {
        if (!self->Run([self, num_bytes] { self->OnReserved(num_bytes); })) {
          const Reservation unused = self->Reserved(num_bytes);
        }
      });
  if (granted) {
    reservation_ = Reserved(num_bytes);
    return true;
  }
  after_quota_ = state_;
  state_ = State::kQuota;
  SetBodyDeadline(Clock::now() + ToClock(shared_->options.progress_timeout));
  return false;
}

Reservation HttpConnection::Reserved(int64_t num_bytes) {
  return {shared_->quota, this, num_bytes, QuotaPeer()};
}

std::string HttpConnection::QuotaPeer() const {
  asio::ip::address address = peer_.address();
  if (address.is_v6() && address.to_v6().is_v4_mapped()) {
    address = asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
  }
  if (address.is_loopback()) return "";  // peers behind a local proxy share one address
  if (address.is_v4()) return address.to_string();
  // One owner has a whole /64 network of them.
  asio::ip::address_v6::bytes_type bytes = address.to_v6().to_bytes();
  std::fill(bytes.begin() + 8, bytes.end(), uint8_t{0});
  return asio::ip::address_v6(bytes).to_string();
}

void HttpConnection::OnReserved(int64_t num_bytes) {
  Reservation reservation = Reserved(num_bytes);
  if (state_ != State::kQuota) return;
  reservation_ = std::move(reservation);
  state_ = after_quota_;
  transfer_end_ = TransferEnd(num_bytes);
  if (state_ == State::kBody) parser_->request.body.reserve(num_bytes);
  Advance();
}

void HttpConnection::Dispatch() {
  state_ = State::kBusy;
  served_ = true;
  SetDeadline(kNever);
  transfer_end_ = kNever;
  HttpRequest request = std::move(parser_->request);
  request.peer = Peer();
  error_code unknown;
  request.from_here =
      peer_.address().is_loopback() || peer_.address() == socket_.local_endpoint(unknown).address();
  parser_.reset();
  reservation_.Received(static_cast<int64_t>(request.body.size()));
  if (request.path == "/health") {
    const bool allowed = is_head_ || request.method == "GET";
    HttpResponse response{.status = allowed ? 200 : 405};
    if (!allowed) response.headers = {{"allow", "GET, HEAD"}};
    Answer(std::move(response), nullptr);
    return;
  }
  auto exchange = std::make_shared<HttpConnectionExchange>(shared_from_this(), std::move(request),
                                                           std::move(reservation_));
  asked_ = exchange;
  shared_->handler(std::move(exchange));
}

// Answers a request that cannot be read to its end, then closes.
void HttpConnection::Refuse(int status, std::string_view detail) {
  state_ = State::kBusy;
  shared_->quota->Withdraw(this);
  reservation_.Release();
  parser_.reset();
  in_.clear();
  keep_alive_ = false;
  Answer({.status = status,
          .content_type = "application/json",
          .body = absl::StrCat(R"({"detail":")", Text(detail), R"("})")},
         nullptr);
}

void HttpConnection::Read() {
  if (reading_ || peer_gone_) return;
  const auto done = [self = shared_from_this()](bool into_body) {
    return [self, into_body](const error_code& error, size_t num_bytes) {
      self->OnRead(error, num_bytes, into_body);
    };
  };
  const auto read = [this](asio::mutable_buffer buffer, auto handler) {
    reading_ = true;
    if (raw_) {
      socket_.async_read_some(buffer, std::move(handler));
    } else {
      tls_->async_read_some(buffer, std::move(handler));
    }
  };
  if (state_ == State::kBody && body_length_ - body_have_ > static_cast<int64_t>(kReadBytes)) {
    std::string& body = parser_->request.body;
    const int64_t limit =
        reservation_.num_bytes() > 0 ? body_length_ : std::min(body_length_, kFreeBodyBytes);
    const int64_t end = std::min(limit, body_have_ + kBodyStep);
    if (static_cast<int64_t>(body.size()) < end) body.resize(end);
    read(asio::buffer(body.data() + body_have_, end - body_have_), done(true));
    return;
  }
  if (state_ == State::kBusy &&
      static_cast<int64_t>(in_.size()) > shared_->options.max_header_bytes) {
    return;
  }
  const size_t size = state_ == State::kChunks ? kChunkedReadBytes : kReadBytes;
  if (chunk_.size() != size) {
    chunk_.resize(size);
    chunk_.shrink_to_fit();
  }
  read(asio::buffer(chunk_), done(false));
}

void HttpConnection::OnRead(const error_code& error, size_t num_bytes, bool into_body) {
  reading_ = false;
  switch (state_) {
    case State::kClosed:
      return;
    case State::kDraining:
      if (error) {
        Close();
      } else {
        Read();
      }
      return;
    default:
      break;
  }
  if (into_body) {
    body_have_ += static_cast<int64_t>(num_bytes);
  } else {
    in_.append(chunk_.data(), num_bytes);
  }
  if (error) {
    if (!IsEndOfStream(error)) {
      Close();
      return;
    }
    OnPeerGone();
  }
  Advance();
}

// The peer sends no more. Its request is still answered: it may have closed only its own half.
void HttpConnection::OnPeerGone() {
  peer_gone_ = true;
  if (const std::shared_ptr<HttpConnectionExchange> exchange = asked_.lock()) exchange->Gone();
}

template <typename Done>
void HttpConnection::Write(std::vector<asio::const_buffer> buffers, Done done) {
  writing_ = true;
  SetDeadline(ProgressDeadline());
  const auto progress = [this](const error_code& error, size_t /*num_bytes*/) -> size_t {
    if (error) return 0;
    SetDeadline(ProgressDeadline());
    return kMaxWrite;
  };
  auto handler = [self = shared_from_this(), done = std::move(done)](const error_code& error,
                                                                     size_t /*num_bytes*/) {
    self->writing_ = false;
    if (self->state_ == State::kClosed) return;
    self->SetDeadline(kNever);
    done(error);
  };
  if (raw_) {
    asio::async_write(socket_, std::move(buffers), progress, std::move(handler));
  } else {
    asio::async_write(*tls_, std::move(buffers), progress, std::move(handler));
  }
}

std::string HttpConnection::FormatHead(int status, const std::string& content_type,
                                       std::optional<int64_t> length,
                                       const HttpResponse* response) {
  const boost::beast::string_view reason = http::obsolete_reason(static_cast<http::status>(status));
  std::string head = absl::StrCat("HTTP/1.1 ", status, " ",
                                  absl::string_view(reason.data(), reason.size()), "\r\n");
  if (!content_type.empty()) absl::StrAppend(&head, "content-type: ", content_type, "\r\n");
  if (response != nullptr) {
    for (const auto& [name, value] : response->headers) {
      absl::StrAppend(&head, name, ": ", value, "\r\n");
    }
  }
  if (length.has_value()) absl::StrAppend(&head, "content-length: ", *length, "\r\n");
  if (streaming_ && stream_chunked_) head += "transfer-encoding: chunked\r\n";
  if (!keep_alive_ || stopping_) head += "connection: close\r\n";
  head += "\r\n";
  return head;
}

void HttpConnection::Answer(HttpResponse response,
                            std::shared_ptr<HttpConnectionExchange> exchange) {
  if (state_ != State::kBusy || writing_ || streaming_) return;
  answering_ = std::move(exchange);
  response_ = std::move(response);
  auto length = static_cast<int64_t>(response_.body.size());
  for (const auto& segment : response_.segments) length += static_cast<int64_t>(segment->size());
  transfer_end_ = TransferEnd(length);
  head_ = FormatHead(response_.status, response_.content_type, length, &response_);
  std::vector<asio::const_buffer> buffers;
  if (is_head_) {
    response_.segments.clear();
  } else if (response_.body.size() <= kCopyBelow) {
    head_ += response_.body;
  }
  buffers.emplace_back(asio::buffer(head_));
  if (!is_head_ && response_.body.size() > kCopyBelow) {
    buffers.emplace_back(asio::buffer(response_.body));
  }
  for (const auto& segment : response_.segments) buffers.push_back(asio::buffer(*segment));
  Write(std::move(buffers), [this](const error_code& error) { OnAnswered(error); });
}

void HttpConnection::OnAnswered(const error_code& error) {
  const std::shared_ptr<HttpConnectionExchange> exchange = std::exchange(answering_, nullptr);
  asked_.reset();
  response_ = {};
  if (error || peer_gone_) {
    if (exchange != nullptr) exchange->Gone();
    Close();
    return;
  }
  if (exchange != nullptr) exchange->Done();
  if (!keep_alive_ || stopping_) {
    Linger();
    return;
  }
  is_head_ = false;
  state_ = State::kHeader;
  Advance();
}

void HttpConnection::StartStream(const std::string& content_type) {
  if (state_ != State::kBusy || writing_ || streaming_) return;
  streaming_ = true;
  stream_finished_ = false;
  stream_chunked_ = !http10_;
  if (http10_) keep_alive_ = false;
  stream_waiting_.push_back(FormatHead(200, content_type, std::nullopt, nullptr));
  FlushStream();
}

void HttpConnection::WritePiece(std::string piece) {
  if (!streaming_ || stream_finished_ || piece.empty()) return;
  stream_waiting_bytes_ += static_cast<int64_t>(piece.size());
  if (stream_chunked_) stream_waiting_.push_back(absl::StrCat(absl::Hex(piece.size()), "\r\n"));
  stream_waiting_.push_back(std::move(piece));
  if (stream_chunked_) stream_waiting_.emplace_back("\r\n");
  FlushStream();
}

void HttpConnection::FinishStream(std::shared_ptr<HttpConnectionExchange> exchange) {
  if (!streaming_ || stream_finished_) return;
  stream_finished_ = true;
  answering_ = std::move(exchange);
  if (stream_chunked_) stream_waiting_.emplace_back("0\r\n\r\n");
  FlushStream();
}

void HttpConnection::FlushStream() {
  if (writing_) return;
  if (stream_waiting_.empty()) {
    if (!stream_finished_) return;
    streaming_ = false;
    OnAnswered({});
    return;
  }
  stream_sending_ = std::exchange(stream_waiting_, {});
  stream_sending_bytes_ = std::exchange(stream_waiting_bytes_, 0);
  transfer_end_ = TransferEnd(stream_sending_bytes_);
  std::vector<asio::const_buffer> buffers;
  buffers.reserve(stream_sending_.size());
  for (const std::string& text : stream_sending_) buffers.push_back(asio::buffer(text));
  Write(std::move(buffers), [this](const error_code& error) {
    if (error) {
      Close();
      return;
    }
    stream_sending_.clear();
    if (const std::shared_ptr<HttpConnectionExchange> exchange = asked_.lock()) {
      exchange->Written(stream_sending_bytes_);
    }
    FlushStream();
  });
}

// Ends the connection so that the peer can still read the answer: unread bytes of its request would
// cause a reset, which can overtake the answer.
void HttpConnection::Linger() {
  if (peer_gone_) {
    Close();
    return;
  }
  state_ = State::kDraining;
  transfer_end_ = kNever;
  SetDeadline(Clock::now() + kLingerTimeout);
  if (raw_) {
    error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_send, ignored);
    Read();
    return;
  }
  tls_->async_shutdown([self = shared_from_this()](const error_code& /*error*/) {
    if (self->state_ == State::kClosed) return;
    self->raw_ = true;
    error_code ignored;
    self->socket_.shutdown(tcp::socket::shutdown_send, ignored);
    self->Read();
  });
}

void HttpConnection::SetDeadline(Clock::time_point deadline) {
  deadline_ = deadline;
  if (deadline < timer_at_) ArmTimer();
}

// When a deadline is extended, which is often, the timer is not reset: it checks again when it
// fires.
void HttpConnection::ArmTimer() {
  timer_at_ = deadline_;
  timer_.expires_at(deadline_);
  timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (error || self->state_ == State::kClosed || Clock::now() < self->timer_at_) return;
    self->timer_at_ = kNever;
    if (Clock::now() >= self->deadline_) {
      self->OnDeadline();
    } else if (self->deadline_ != kNever) {
      self->ArmTimer();
    }
  });
}

void HttpConnection::SetBodyDeadline(Clock::time_point end) {
  body_end_ = end;
  SetDeadline(std::min(end, look_at_));
}

void HttpConnection::OnDeadline() {
  const bool is_body =
      state_ == State::kBody || state_ == State::kChunks || state_ == State::kQuota;
  if (is_body && Clock::now() < body_end_) {
    LookAfterBody();
  } else if (state_ == State::kQuota) {
    Refuse(503, "too many large requests at once, try again later");
  } else {
    Close();
  }
}

void HttpConnection::LookAfterBody() {
  if (state_ == State::kQuota) {
    shared_->quota->CancelSlowestBody(Clock::now());
  } else {
    const int64_t num_bytes =
        state_ == State::kChunks ? static_cast<int64_t>(parser_->request.body.size()) : body_have_;
    if (shared_->quota->IsCancelled(this, num_bytes)) {
      shared_->log.Warn(QuietLog::kSlow, Peer(),
                        "cancelled: the body arrived too slowly while others waited for memory");
      Close();
      return;
    }
  }
  look_at_ = Clock::now() + kLookAfter;
  SetBodyDeadline(body_end_);
}

Clock::time_point HttpConnection::ProgressDeadline() const {
  return std::min(Clock::now() + ToClock(shared_->options.progress_timeout), transfer_end_);
}

Clock::time_point HttpConnection::TransferEnd(int64_t num_bytes) const {
  return Clock::now() + ToClock(shared_->options.progress_timeout) +
         std::chrono::seconds(num_bytes / kMinBytesPerSecond);
}

std::string HttpConnection::Peer() const {
  return peer_.address().is_unspecified()
             ? "a peer"
             : HostPort{peer_.address().to_string(), peer_.port()}.ToString();
}

}  // namespace fedumm::transport
