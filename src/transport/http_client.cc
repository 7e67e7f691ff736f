#include "transport/http_client.h"

#include <algorithm>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace fedumm::transport {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using Parser = http::response_parser<http::string_body>;

constexpr std::string_view kHttp1 = "\x08http/1.1";  // for ALPN
constexpr auto kIdleLimit =
    std::chrono::minutes(1);    // middleboxes drop connections that are idle for longer
constexpr size_t kMaxIdle = 4;  // loop, heartbeat, two object workers

absl::Status Unreadable(const std::string& server, const boost::system::error_code& error) {
  return absl::InternalError(absl::StrCat("no HTTP answer from ", server, ": ", error.message()));
}

}  // namespace

std::string_view HttpAnswer::Header(std::string_view name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? std::string_view() : std::string_view(found->second);
}

// One connection, and the bytes that were received beyond the last answer. Not thread-safe.
class HttpClient::Channel {
 public:
  Channel(const std::string& server, std::unique_ptr<Connection> connection)
      : server_(server), connection_(std::move(connection)) {}

  absl::Status Send(std::string_view head, std::string_view body, const Until& until) {
    answered_ = false;
    return connection_->Write(head, body, until);
  }
  absl::StatusOr<HttpAnswer> Receive(const Options& options, const Until& until);

  bool answered() const { return answered_; }  // at least one byte, since the last Send
  // May be used for another request.
  bool IsReusable() const { return keep_alive_ && begin_ == end_; }
  // And the server has not closed it since.
  bool IsSilent() { return connection_->IsSilent(); }

  Until::Clock::time_point idle_since;

 private:
  static constexpr size_t kBufferBytes = 16 << 10;
  static constexpr size_t kFirstBodyBytes = 8 << 20;

  // Appends more bytes to the buffer. OUT_OF_RANGE at the end of the stream.
  absl::Status Fill(size_t max_bytes, const Until& until);
  absl::Status ReceiveHeader(Parser& parser, const Options& options, const Until& until);
  absl::StatusOr<std::string> ReceiveSized(size_t size, const Until& until);
  absl::StatusOr<std::string> ReceiveUnsized(Parser& parser, const Until& until);
  // Gives the buffered bytes to the parser.
  absl::Status Feed(Parser& parser);

  const std::string& server_;  // its name, for errors
  const std::unique_ptr<Connection> connection_;
  std::string buffer_;  // [begin_, end_) was received and is not used yet
  size_t begin_ = 0;
  size_t end_ = 0;
  bool answered_ = false;
  bool keep_alive_ = true;
};

absl::Status HttpClient::Channel::Fill(size_t max_bytes, const Until& until) {
  std::copy(buffer_.begin() + begin_, buffer_.begin() + end_, buffer_.begin());
  end_ -= std::exchange(begin_, 0);
  if (end_ >= max_bytes)
    return absl::InternalError(
        absl::StrCat("no HTTP answer from ", server_, ": its header is too large"));
  if (buffer_.size() < end_ + kBufferBytes) buffer_.resize(end_ + kBufferBytes);
  FEDUMM_ASSIGN_OR_RETURN(const size_t got,
                          connection_->Read(buffer_.data() + end_, buffer_.size() - end_, until));
  if (got == 0) return absl::OutOfRangeError("closed");
  end_ += got;
  answered_ = true;
  return absl::OkStatus();
}

absl::Status HttpClient::Channel::Feed(Parser& parser) {
  boost::system::error_code error;
  while (begin_ < end_ && !parser.is_done()) {
    const size_t used =
        parser.put(asio::const_buffer(buffer_.data() + begin_, end_ - begin_), error);
    begin_ += used;
    if (error == http::error::need_more) return absl::OkStatus();
    if (error) return Unreadable(server_, error);
    if (!parser.eager()) return absl::OkStatus();  // it stops after the header
  }
  return absl::OkStatus();
}

absl::Status HttpClient::Channel::ReceiveHeader(Parser& parser, const Options& options,
                                                const Until& until) {
  while (true) {
    FEDUMM_RETURN_IF_ERROR(Feed(parser));
    if (parser.is_header_done()) return absl::OkStatus();
    const absl::Status filled = Fill(options.max_header_bytes, until);
    if (absl::IsOutOfRange(filled)) {
      if (connection_->lacks_certificate()) {
        return absl::FailedPreconditionError(
            absl::StrCat(server_, " requires a client certificate, and none was given"));
      }
      return absl::UnavailableError(
          absl::StrCat(server_, " closed the connection without an answer"));
    }
    FEDUMM_RETURN_IF_ERROR(filled);
  }
}

absl::StatusOr<std::string> HttpClient::Channel::ReceiveSized(size_t size, const Until& until) {
  size_t have = std::min(size, end_ - begin_);
  std::string body(buffer_, begin_, have);
  begin_ += have;
  while (have < size) {
    // Grows with what comes: a length that is only announced takes no memory.
    if (have == body.size()) body.resize(std::min(size, std::max(2 * have, kFirstBodyBytes)));
    FEDUMM_ASSIGN_OR_RETURN(const size_t got,
                            connection_->Read(body.data() + have, body.size() - have, until));
    if (got == 0) {
      return absl::UnavailableError(
          absl::StrCat(server_, " closed the connection within an answer"));
    }
    have += got;
  }
  return body;
}

absl::StatusOr<std::string> HttpClient::Channel::ReceiveUnsized(Parser& parser,
                                                                const Until& until) {
  parser.eager(true);
  while (true) {
    FEDUMM_RETURN_IF_ERROR(Feed(parser));
    if (parser.is_done()) break;
    const absl::Status filled = Fill(kBufferBytes * 4, until);
    if (absl::IsOutOfRange(filled)) {
      boost::system::error_code error;
      parser.put_eof(error);
      if (!error) break;
      return absl::UnavailableError(
          absl::StrCat(server_, " closed the connection within an answer"));
    }
    FEDUMM_RETURN_IF_ERROR(filled);
  }
  return std::move(parser.get().body());
}

absl::StatusOr<HttpAnswer> HttpClient::Channel::Receive(const Options& options,
                                                        const Until& until) {
  constexpr int kMostInterim = 8;  // 100 Continue and other 1xx
  keep_alive_ = false;             // unless all goes well
  for (int i = 0; i < kMostInterim; ++i) {
    Parser parser;
    parser.eager(false);
    parser.header_limit(options.max_header_bytes);
    parser.body_limit(options.max_body_bytes);
    FEDUMM_RETURN_IF_ERROR(ReceiveHeader(parser, options, until));
    const auto& head = parser.get();
    if (head.result_int() / 100 == 1) continue;

    HttpAnswer answer{.status = static_cast<int>(head.result_int())};
    for (const auto& field : head) {
      const boost::beast::string_view name = field.name_string();
      answer.headers.emplace(absl::AsciiStrToLower({name.data(), name.size()}),
                             std::string(field.value()));
    }
    const bool keep_alive = parser.keep_alive();
    if (!parser.is_done()) {
      const auto size = parser.content_length();
      if (size.has_value() && !parser.chunked()) {
        FEDUMM_ASSIGN_OR_RETURN(answer.body, ReceiveSized(*size, until));
      } else {
        FEDUMM_ASSIGN_OR_RETURN(answer.body, ReceiveUnsized(parser, until));
      }
    }
    keep_alive_ = keep_alive;
    return answer;
  }
  return absl::InternalError(
      absl::StrCat("no HTTP answer from ", server_, ": interim answers only"));
}

HttpClient::HttpClient(Route route, const TlsClient* tls, Options options)
    : route_(std::move(route)), name_(route_.ToString()), tls_(tls), options_(options) {}

HttpClient::~HttpClient() = default;

struct HttpClient::Outcome {
  absl::StatusOr<HttpAnswer> answer;
  bool answered = false;  // a part of an answer came
};

absl::StatusOr<HttpAnswer> HttpClient::Post(std::string_view path, std::string_view headers,
                                            std::string_view body, const Until& until) {
  const std::string server = route_.server.ToString();
  const std::string head = absl::StrCat(
      "POST ", IsForwarded() ? absl::StrCat("http://", server) : "", Text(path),
      " HTTP/1.1\r\nHost: ", server, "\r\n", IsForwarded() ? route_.proxy->AuthorizationLine() : "",
      Text(headers), "Content-Length: ", body.size(), "\r\n\r\n");
  if (std::unique_ptr<Channel> channel = TakeIdle()) {
    Outcome outcome = PostOn(std::move(channel), head, body, until);
    // It may have been closed while the request was sent, which does not mean that the server is
    // down.
    if (outcome.answered || !absl::IsUnavailable(outcome.answer.status())) {
      return std::move(outcome.answer);
    }
  }
  FEDUMM_ASSIGN_OR_RETURN(auto connection, Connect(until));
  return PostOn(std::make_unique<Channel>(name_, std::move(connection)), head, body, until).answer;
}

absl::StatusOr<std::unique_ptr<Connection>> HttpClient::Connect(const Until& until) const {
  if (IsForwarded()) return Connection::OpenToProxy(route_, until);
  return Connection::Open(route_, tls_, kHttp1, until);
}

std::unique_ptr<HttpClient::Channel> HttpClient::TakeIdle() {
  while (true) {
    std::unique_ptr<Channel> channel;
    {
      MutexLock lock(mutex_);
      if (idle_.empty()) return nullptr;
      channel = std::move(idle_.back());
      idle_.pop_back();
    }
    if (Until::Clock::now() - channel->idle_since < kIdleLimit && channel->IsSilent()) {
      return channel;
    }
  }
}

HttpClient::Outcome HttpClient::PostOn(std::unique_ptr<Channel> channel, std::string_view head,
                                       std::string_view body, const Until& until) {
  const absl::Status sent = channel->Send(head, body, until);
  if (!sent.ok() && !absl::IsUnavailable(sent)) return {sent};
  // A server may answer and close before it has read the whole request.
  absl::StatusOr<HttpAnswer> answer = channel->Receive(options_, until);
  const bool answered = channel->answered();
  if (!answer.ok() && !sent.ok() && absl::IsUnavailable(answer.status())) return {sent, answered};
  if (answer.ok() && IsForwarded() && answer->status != 403) {  // that may be the server's
    const absl::Status failure = ProxyFailure(*route_.proxy, route_.server, answer->status);
    if (!failure.ok()) return {failure, answered};
  }
  if (answer.ok() && sent.ok() && channel->IsReusable()) {
    channel->idle_since = Until::Clock::now();
    MutexLock lock(mutex_);
    if (idle_.size() < kMaxIdle) idle_.push_back(std::move(channel));
  }
  return {std::move(answer), answered};
}

}  // namespace fedumm::transport
