// ThreadSanitizer knows no fences; without them, Asio's locks order all that its handlers do.
#ifdef __SANITIZE_THREAD__
#define BOOST_ASIO_DISABLE_FENCED_BLOCK
#endif

#include "transport/http_server.h"

#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/status.hpp>
#include <chrono>
#include <deque>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "transport/certificates.h"

namespace fedumm::transport {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
namespace ssl = boost::asio::ssl;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using Strand = asio::strand<asio::io_context::executor_type>;

constexpr size_t kReadBytes = 4096;             // into the connection's own buffer
constexpr size_t kChunkedReadBytes = 64 << 10;  // likewise, of a chunked body
constexpr int64_t kFreeBodyBytes = 64 << 10;    // of a body, without asking the quota
constexpr int64_t kBodyStep = 256 << 10;        // how far a body's string grows ahead of its bytes
constexpr size_t kMaxWrite = 1 << 20;           // handed to the socket at once
constexpr size_t kCopyBelow = 16 << 10;  // a body this small is sent from the buffer of the header
constexpr int64_t kMinBytesPerSecond = 64 << 10;
constexpr int64_t kMaxStreamBytes = int64_t{8} << 20;
constexpr size_t kMaxChunkHeaderBytes = 16 << 10;
constexpr auto kHandshakeTimeout = std::chrono::seconds(10);
constexpr auto kLingerTimeout = std::chrono::seconds(2);
constexpr auto kShutdownTimeout = absl::Seconds(2);
constexpr auto kAcceptPause = std::chrono::milliseconds(100);
constexpr auto kNever = Clock::time_point::max();

Clock::duration ToClock(absl::Duration duration) {
  return std::chrono::duration_cast<Clock::duration>(
      absl::ToChronoNanoseconds(std::min(duration, absl::Hours(24 * 365))));
}

bool IsEndOfStream(const error_code& error) {
  return error == asio::error::eof || error == ssl::error::stream_truncated;
}

// One line about each kind of trouble every ten seconds, however many peers make it. Thread-safe.
class QuietLog {
 public:
  enum Kind { kHandshake, kPlaintext, kTls, kFull, kAccept, kNumKinds };

  void Warn(Kind kind, const std::string& peer, const std::string& text) {
    int64_t unsaid = 0;
    {
      MutexLock lock(mu_);
      const Clock::time_point now = Clock::now();
      Entry& entry = entries_[kind];
      if (now < entry.next) {
        ++entry.unsaid;
        return;
      }
      entry.next = now + std::chrono::seconds(10);
      unsaid = std::exchange(entry.unsaid, 0);
    }
    Log()->warn("http: {}: {}{}", peer, Printable(text),
                unsaid > 0 ? absl::StrCat(" (and ", unsaid, " more)") : "");
  }

 private:
  struct Entry {
    Clock::time_point next;
    int64_t unsaid = 0;
  };
  Mutex mu_;
  std::array<Entry, kNumKinds> entries_ ABSL_GUARDED_BY(mu_);
};

// Memory for large bodies. First come, first served, and each gets all it needs or waits, so that
// those that were let in can always be finished. Thread-safe.
class BodyQuota {
 public:
  explicit BodyQuota(int64_t limit) : limit_(limit) {}

  // True if the bytes were granted at once. Otherwise `granted` is called as soon as they are,
  // unless Withdraw comes first.
  bool Take(int64_t num_bytes, const void* who, std::function<void()> granted) {
    MutexLock lock(mu_);
    if (waiting_.empty() && used_ + num_bytes <= limit_) {
      used_ += num_bytes;
      return true;
    }
    waiting_.push_back({num_bytes, who, std::move(granted)});
    return false;
  }
  void Withdraw(const void* who) {
    Waiting withdrawn;  // destroyed after the lock
    {
      MutexLock lock(mu_);
      const auto it = std::find_if(waiting_.begin(), waiting_.end(),
                                   [&](const Waiting& waiting) { return waiting.who == who; });
      if (it == waiting_.end()) return;
      withdrawn = std::move(*it);
      waiting_.erase(it);
    }
    Give(0);
  }
  void Give(int64_t num_bytes) {
    std::vector<std::function<void()>> granted;
    {
      MutexLock lock(mu_);
      used_ -= num_bytes;
      while (!waiting_.empty() && used_ + waiting_.front().num_bytes <= limit_) {
        used_ += waiting_.front().num_bytes;
        granted.push_back(std::move(waiting_.front().granted));
        waiting_.pop_front();
      }
    }
    for (const std::function<void()>& call : granted) call();
  }

 private:
  struct Waiting {
    int64_t num_bytes = 0;
    const void* who = nullptr;
    std::function<void()> granted;
  };
  const int64_t limit_;
  Mutex mu_;
  int64_t used_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<Waiting> waiting_ ABSL_GUARDED_BY(mu_);
};

class HttpConnection;

// What the connections of a server share. They keep it alive.
struct Shared {
  Shared(HttpServer::Options server_options, HttpHandler server_handler)
      : options(std::move(server_options)),
        handler(std::move(server_handler)),
        quota(std::max(options.max_pending_body_bytes, options.max_body_bytes)) {}

  asio::io_context io;
  const HttpServer::Options options;
  HttpHandler handler;
  std::optional<ssl::context> tls;
  BodyQuota quota;
  QuietLog log;

  Mutex mu;
  CondVar closed;
  bool stopping ABSL_GUARDED_BY(mu) = false;
  std::unordered_map<HttpConnection*, std::weak_ptr<HttpConnection>> connections
      ABSL_GUARDED_BY(mu);
};

// Bytes of the quota, given back when this goes.
class Reservation {
 public:
  Reservation() = default;
  Reservation(std::shared_ptr<Shared> shared, int64_t num_bytes)
      : shared_(std::move(shared)), num_bytes_(num_bytes) {}
  Reservation(Reservation&& other) noexcept { *this = std::move(other); }
  Reservation& operator=(Reservation&& other) noexcept {
    Release();
    shared_ = std::move(other.shared_);
    num_bytes_ = std::exchange(other.num_bytes_, 0);
    return *this;
  }
  ~Reservation() { Release(); }

  int64_t num_bytes() const { return num_bytes_; }
  void ShrinkTo(int64_t num_bytes) {
    if (num_bytes >= num_bytes_) return;
    shared_->quota.Give(num_bytes_ - num_bytes);
    num_bytes_ = num_bytes;
  }
  void Release() {
    if (num_bytes_ > 0) shared_->quota.Give(std::exchange(num_bytes_, 0));
    shared_.reset();
  }

 private:
  std::shared_ptr<Shared> shared_;
  int64_t num_bytes_ = 0;
};

// Takes a request's header, and its body if that comes in chunks.
class RequestParser final : public http::basic_parser<true> {
 public:
  HttpRequest request;
  bool http10 = false;
  bool odd_encoding = false;  // a transfer encoding that is not just `chunked`

 private:
  using StringView = boost::beast::string_view;

  void on_request_impl(http::verb /*method*/, StringView method, StringView target, int version,
                       error_code& /*error*/) override {
    request.method.assign(method.data(), method.size());
    request.path.assign(target.data(), target.size());
    http10 = version == 10;
  }
  void on_response_impl(int /*code*/, StringView /*reason*/, int /*version*/,
                        error_code& /*error*/) override {}
  void on_field_impl(http::field field, StringView name, StringView value,
                     error_code& /*error*/) override {
    if (header_done_) return;  // a trailer
    if (field == http::field::transfer_encoding && !boost::beast::iequals(value, "chunked")) {
      odd_encoding = true;
    }
    std::string& text = request.headers[absl::AsciiStrToLower({name.data(), name.size()})];
    if (!text.empty()) text += ", ";
    text.append(value.data(), value.size());
  }
  void on_header_impl(error_code& /*error*/) override { header_done_ = true; }
  void on_body_init_impl(const boost::optional<uint64_t>& /*length*/,
                         error_code& /*error*/) override {}
  size_t on_body_impl(StringView body, error_code& /*error*/) override { return body.size(); }
  void on_chunk_header_impl(uint64_t /*size*/, StringView /*extensions*/,
                            error_code& /*error*/) override {}
  size_t on_chunk_body_impl(uint64_t /*remain*/, StringView body, error_code& /*error*/) override {
    request.body.append(body.data(), body.size());
    return body.size();
  }
  void on_finish_impl(error_code& /*error*/) override {}

  bool header_done_ = false;
};

class Exchange;

// One peer. All but Run belongs to the strand; the connection is kept alive by what it waits for
// and by the exchange that it has not answered.
class HttpConnection final : public std::enable_shared_from_this<HttpConnection> {
 public:
  explicit HttpConnection(std::shared_ptr<Shared> shared)
      : shared_(std::move(shared)),
        strand_(asio::make_strand(shared_->io)),
        socket_(strand_),
        timer_(strand_) {}

  tcp::socket& socket() { return socket_; }
  const std::shared_ptr<Shared>& shared() const { return shared_; }

  // Calls `call` on the strand, at once if this is it. False, without the call, if the connection
  // is closed. From any thread.
  template <typename Call>
  bool Run(Call call) {
    if (strand_.running_in_this_thread()) {
      if (state_ == State::kClosed) return false;
      call();
      return true;
    }
    MutexLock lock(mu_);
    if (!open_) return false;
    asio::post(strand_, [self = shared_from_this(), call = std::move(call)]() mutable { call(); });
    return true;
  }

  void Start();
  void BeginShutdown();
  void Close();

  void Answer(HttpResponse response, std::shared_ptr<Exchange> exchange);
  void StartStream(const std::string& content_type);
  void WritePiece(std::string piece);
  void FinishStream(std::shared_ptr<Exchange> exchange);

 private:
  enum class State {
    kHandshake,
    kHeader,    // between requests, or in a header
    kContinue,  // the peer is being told to go on
    kBody,      // of known length
    kChunks,
    kQuota,     // a large body waits for memory
    kBusy,      // with a request, until its answer is out
    kDraining,  // we have said all; the peer has not
    kClosed,
  };

  void OnHandshake(const error_code& error);
  void Advance();
  // Each true if there is more to be done at once.
  bool ParseHeader();
  bool BeginBody();
  bool TakeBody();
  bool ParseChunks();
  bool ReserveBody(int64_t num_bytes);
  void OnReserved(int64_t num_bytes);
  void Dispatch();
  void Refuse(int status, std::string_view detail);

  void Read();
  void OnRead(const error_code& error, size_t num_bytes, bool into_body);
  void OnPeerGone();
  template <typename Done>
  void Write(std::vector<asio::const_buffer> buffers, Done done);
  std::string FormatHead(int status, const std::string& content_type, std::optional<int64_t> length,
                         const HttpResponse* response);
  void OnAnswered(const error_code& error);
  void FlushStream();
  void Linger();

  void SetDeadline(Clock::time_point deadline);
  void ArmTimer();
  void OnDeadline();
  Clock::time_point ProgressDeadline() const {
    return std::min(Clock::now() + ToClock(shared_->options.progress_timeout), transfer_end_);
  }
  // When a transfer of that many bytes must be over at the latest.
  Clock::time_point TransferEnd(int64_t num_bytes) const {
    return Clock::now() + ToClock(shared_->options.progress_timeout) +
           std::chrono::seconds(num_bytes / kMinBytesPerSecond);
  }
  std::string Peer() const {
    return peer_.address().is_unspecified()
               ? "a peer"
               : absl::StrCat(peer_.address().to_string(), ":", peer_.port());
  }

  const std::shared_ptr<Shared> shared_;
  const Strand strand_;
  tcp::socket socket_;
  std::optional<ssl::stream<tcp::socket&>> tls_;  // none: plaintext
  bool raw_ = true;                               // whether to go past `tls_`
  tcp::endpoint peer_;

  Mutex mu_;
  bool open_ ABSL_GUARDED_BY(mu_) = true;

  State state_ = State::kHandshake;
  bool stopping_ = false;

  asio::steady_timer timer_;
  Clock::time_point deadline_ = kNever;
  Clock::time_point timer_at_ = kNever;
  Clock::time_point transfer_end_ = kNever;

  std::vector<char> chunk_;  // what a read writes to, unless that is the body
  bool reading_ = false;
  std::string in_;  // read, and not parsed yet
  size_t searched_ = 0;
  bool header_begun_ = false;
  bool served_ = false;  // a request before this one
  std::optional<RequestParser> parser_;
  State after_quota_ = State::kBody;
  int64_t body_length_ = 0;
  int64_t body_have_ = 0;
  Reservation reservation_;
  bool http10_ = false;
  bool keep_alive_ = true;
  bool is_head_ = false;
  bool peer_gone_ = false;

  std::weak_ptr<Exchange> asked_;        // the request that waits for its answer
  std::shared_ptr<Exchange> answering_;  // whose answer is on its way
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

class Exchange final : public HttpExchange, public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(std::shared_ptr<HttpConnection> connection, HttpRequest request, Reservation reservation)
      : connection_(std::move(connection)),
        request_(std::move(request)),
        reservation_(std::move(reservation)) {}
  ~Exchange() override {
    if (!answered_) {
      connection_->Run([connection = connection_.get()] {
        connection->Answer({.status = 503,
                            .content_type = "application/json",
                            .body = R"({"detail":"the request was not answered"})"},
                           nullptr);
      });
    } else if (streaming_ && !finished_) {
      // The peer must not take what it has for all of it.
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

  // The connection's side, on its strand.

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

void HttpConnection::Start() {
  error_code ignored;
  peer_ = socket_.remote_endpoint(ignored);
  socket_.set_option(tcp::no_delay(true), ignored);
  // Notices a peer that vanished while it waits for an answer.
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
    shared_->log.Warn(QuietLog::kPlaintext, Peer(), "sent plaintext, where TLS is spoken");
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
  shared_->quota.Withdraw(this);
  reservation_.Release();
  if (const std::shared_ptr<Exchange> exchange = asked_.lock()) exchange->Gone();
  if (const std::shared_ptr<Exchange> exchange = std::exchange(answering_, nullptr)) {
    exchange->Gone();
  }
  MutexLock lock(shared_->mu);
  shared_->connections.erase(this);
  shared_->closed.NotifyAll();
}

// Works on what was read until it needs more.
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
        Read();  // notices a peer that leaves
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
        shared_->log.Warn(QuietLog::kTls, Peer(), "speaks TLS, where plaintext is spoken");
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
  parser_->body_limit(static_cast<uint64_t>(shared_->options.max_body_bytes));
  error_code error;
  const size_t parsed = parser_->put(asio::const_buffer(in_.data(), head_bytes), error);
  if (error == http::error::body_limit) {
    Refuse(413, absl::StrCat("the body is longer than ", shared_->options.max_body_bytes));
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
  for (const std::string_view scheme : {"http://", "https://"}) {  // as to a proxy
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
  body_length_ = length;
  body_have_ = 0;
  transfer_end_ = TransferEnd(chunked ? shared_->options.max_body_bytes : length);
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
  // Only a peer that really sends may hold more than this.
  if (body_have_ >= kFreeBodyBytes && reservation_.num_bytes() == 0) {
    if (!ReserveBody(body_length_)) return false;
    body.reserve(body_length_);
  }
  SetDeadline(ProgressDeadline());
  Read();
  return false;
}

bool HttpConnection::ParseChunks() {
  if (!in_.empty()) {
    error_code error;
    const size_t parsed = parser_->put(asio::const_buffer(in_.data(), in_.size()), error);
    if (error == http::error::body_limit) {
      Refuse(413, absl::StrCat("the body is longer than ", shared_->options.max_body_bytes));
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
      reservation_.num_bytes() == 0 && !ReserveBody(shared_->options.max_body_bytes)) {
    return false;
  }
  SetDeadline(ProgressDeadline());
  Read();
  return false;
}

bool HttpConnection::ReserveBody(int64_t num_bytes) {
  const bool granted = shared_->quota.Take(num_bytes, this, [self = shared_from_this(), num_bytes] {
    if (!self->Run([self, num_bytes] { self->OnReserved(num_bytes); })) {
      self->shared_->quota.Give(num_bytes);
    }
  });
  if (granted) {
    reservation_ = Reservation(shared_, num_bytes);
    return true;
  }
  after_quota_ = state_;
  state_ = State::kQuota;
  SetDeadline(Clock::now() + ToClock(shared_->options.progress_timeout));
  return false;
}

void HttpConnection::OnReserved(int64_t num_bytes) {
  Reservation reservation(shared_, num_bytes);
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
  error_code unknown;
  request.from_here =
      peer_.address().is_loopback() || peer_.address() == socket_.local_endpoint(unknown).address();
  parser_.reset();
  reservation_.ShrinkTo(static_cast<int64_t>(request.body.size()));
  if (request.path == "/health") {
    const bool allowed = is_head_ || request.method == "GET";
    HttpResponse response{.status = allowed ? 200 : 405};
    if (!allowed) response.headers = {{"allow", "GET, HEAD"}};
    Answer(std::move(response), nullptr);
    return;
  }
  auto exchange =
      std::make_shared<Exchange>(shared_from_this(), std::move(request), std::move(reservation_));
  asked_ = exchange;
  shared_->handler(std::move(exchange));
}

// Answers a request that cannot be read any further.
void HttpConnection::Refuse(int status, std::string_view detail) {
  state_ = State::kBusy;
  shared_->quota.Withdraw(this);
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

// It will send no more. What it sent is still answered: it may have closed its half only.
void HttpConnection::OnPeerGone() {
  peer_gone_ = true;
  if (const std::shared_ptr<Exchange> exchange = asked_.lock()) exchange->Gone();
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

void HttpConnection::Answer(HttpResponse response, std::shared_ptr<Exchange> exchange) {
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
  buffers.push_back(asio::buffer(head_));
  if (!is_head_ && response_.body.size() > kCopyBelow) {
    buffers.push_back(asio::buffer(response_.body));
  }
  for (const auto& segment : response_.segments) buffers.push_back(asio::buffer(*segment));
  Write(std::move(buffers), [this](const error_code& error) { OnAnswered(error); });
}

void HttpConnection::OnAnswered(const error_code& error) {
  const std::shared_ptr<Exchange> exchange = std::exchange(answering_, nullptr);
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

void HttpConnection::FinishStream(std::shared_ptr<Exchange> exchange) {
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
    if (const std::shared_ptr<Exchange> exchange = asked_.lock()) {
      exchange->Written(stream_sending_bytes_);
    }
    FlushStream();
  });
}

// Ends the connection so that the peer can still read the answer: a reset, which unread bytes of
// its request would cause, could overtake it.
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

// The timer is not moved when the deadline is put off, which is often, but looks again.
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

void HttpConnection::OnDeadline() {
  if (state_ == State::kQuota) {
    Refuse(503, "too many large requests at once, try again later");
  } else {
    Close();
  }
}

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

struct HostPort {
  std::string host;  // without brackets
  std::string port;
};

absl::StatusOr<HostPort> ParseAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("the address is not host:port: ", Printable(address)));
  }
  std::string host = address.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  return HostPort{.host = std::move(host), .port = absl::StrCat(port)};
}

}  // namespace

std::string_view HttpRequest::Header(std::string_view name) const {
  const auto it = headers.find(name);
  return it == headers.end() ? std::string_view() : std::string_view(it->second);
}

class HttpServer::Impl {
 public:
  Impl(Options options, HttpHandler handler)
      : shared_(std::make_shared<Shared>(std::move(options), std::move(handler))),
        work_(shared_->io.get_executor()) {}

  ~Impl() {
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
    FEDUMM_ASSIGN_OR_RETURN(const HostPort address, ParseAddress(options.address));
    error_code error;
    tcp::resolver resolver(shared_->io);
    const auto endpoints =
        resolver.resolve(address.host, address.port, tcp::resolver::passive, error);
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
          // Out of file descriptors, most likely: some will be free again.
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

  const std::shared_ptr<Shared> shared_;
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
