#include "transport/app_http.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "transport/http_routes.h"

namespace fedumm::transport {
namespace {

using link::Control;
using link::Runtime;

constexpr absl::Duration kHold = absl::Seconds(25);  // Flower's clients give up after 30 s
constexpr char kTokenHeader[] = "flwr-task-token";
constexpr int64_t kObjectOverhead = int64_t{8} << 20;   // what is around an object in a request
constexpr int64_t kMaxRoundBytes = int64_t{512} << 20;  // of a request that announces messages
constexpr char kStreamType[] = "application/flower-protobuf-stream";

// Flower's error codes.
constexpr int kNoPermission = 9;
constexpr int kInvalidRunConfig = 15;
constexpr int kRunNotFound = 16;
constexpr int kRunFinished = 18;
constexpr int kInvalidKey = 22;
constexpr int kKeyInUse = 23;
constexpr int kNodeNotFound = 24;
constexpr int kAuthenticationFailed = 1008;
constexpr int kTaskStartFailed = 3002;
constexpr int kUnexpectedNode = 3004;
constexpr int kInvalidMessageCount = 3013;
constexpr int kWrongRun = 3014;

// The error code of a call for each kind of refusal.
struct Codes {
  int precondition = kRunFinished;
  int argument = kInvalidProtobuf;
  int not_found = kRunNotFound;
};

HttpResponse ToResponse(const absl::Status& status, const Codes& codes) {
  const absl::string_view message = status.message();
  const std::string_view detail(message.data(), message.size());
  switch (status.code()) {
    case absl::StatusCode::kUnauthenticated:
      // Flower's own text: a ServerApp exits when it reads it.
      return ErrorResponse(401, kAuthenticationFailed, "Authentication failed.");
    case absl::StatusCode::kPermissionDenied:
      return ErrorResponse(403, kWrongRun, detail);
    case absl::StatusCode::kNotFound:
      return ErrorResponse(404, codes.not_found, detail);
    case absl::StatusCode::kAlreadyExists:
      return ErrorResponse(412, kKeyInUse, detail);
    case absl::StatusCode::kFailedPrecondition:
      return ErrorResponse(412, codes.precondition, detail);
    case absl::StatusCode::kInvalidArgument:
      return ErrorResponse(400, codes.argument, detail);
    default:
      return ErrorResponse(503, std::nullopt, detail);
  }
}

template <typename Response>
void Respond(HttpExchange& exchange, const absl::StatusOr<Response>& response, Codes codes = {}) {
  if (response.ok()) {
    exchange.Respond(
        {.content_type = std::string(kProtobufType), .body = response->SerializeAsString()});
  } else {
    exchange.Respond(ToResponse(response.status(), codes));
  }
}

// Whether the request could be parsed. Answers the exchange if not.
template <typename Request>
bool Decode(HttpExchange& exchange, Request& request) {
  if (request.ParseFromString(exchange.request().body)) return true;
  exchange.Respond(ErrorResponse(400, kInvalidProtobuf, "Invalid protobuf payload."));
  return false;
}

using Call = std::function<void(const std::shared_ptr<HttpExchange>&)>;
using Calls = std::map<std::string, Call, std::less<>>;

void Serve(const Calls& calls, std::string_view prefix,
           const std::shared_ptr<HttpExchange>& exchange) {
  const HttpRequest& request = exchange->request();
  const std::string_view path = request.path;
  const auto call = path.starts_with(prefix) ? calls.find(path.substr(prefix.size())) : calls.end();
  if (call == calls.end()) {
    exchange->Respond(ErrorResponse(404, std::nullopt, "Not Found"));
  } else if (request.method != "POST") {
    HttpResponse response = ErrorResponse(405, std::nullopt, "Method Not Allowed");
    response.headers = {{"allow", "POST"}};
    exchange->Respond(std::move(response));
  } else if (!IsProtobuf(request.Header("content-type"))) {
    exchange->Respond(ErrorResponse(415, kUnsupportedContentType, "Unsupported Content-Type."));
  } else {
    call->second(exchange);
  }
}

// Headers that proxies add, and that browsers add to each POST of a page. They also reveal a page
// whose host name was made to resolve to this machine (DNS rebinding).
constexpr const char* kHeadersOfProxiesAndBrowsers[] = {"forwarded", "origin", "sec-fetch-site",
                                                        "via", "x-forwarded-for"};

// Whether the peer may run apps. Answers the exchange if not.
bool MayControl(const AppHttpOptions& options, HttpExchange& exchange) {
  if (options.allow_remote_control) return true;
  const HttpRequest& request = exchange.request();
  const bool is_forwarded =
      std::any_of(std::begin(kHeadersOfProxiesAndBrowsers), std::end(kHeadersOfProxiesAndBrowsers),
                  [&](const char* name) { return request.headers.contains(name); });
  if (request.from_here && !is_forwarded) return true;
  exchange.Respond(ErrorResponse(403, kNoPermission,
                                 "This SuperLink takes runs from its own machine only, and through "
                                 "no proxy or web page (see --allow-remote-control)."));
  return false;
}

// Streams a run's log lines as they arrive. Thread-safe.
class LogStream : public std::enable_shared_from_this<LogStream> {
 public:
  LogStream(Control& control, std::shared_ptr<HttpExchange> exchange,
            flwr::proto::StreamLogsRequest request, uint64_t ticket)
      : control_(control),
        exchange_(std::move(exchange)),
        ticket_(ticket),
        run_id_(request.run_id()),
        request_(std::move(request)) {}

  void Start() {
    // The watch keeps the exchange alive until the stream ends or the peer disconnects.
    control_.WatchLogs(run_id_, ticket_, [self = shared_from_this()] { self->Pump(); });
    exchange_->OnGone([&control = control_, ticket = ticket_] { control.UnwatchLogs(ticket); });
    Pump();
  }

 private:
  // Calls from several threads are serialised; each sends the lines since the last one.
  void Pump() {
    MutexLock lock(mu_);
    if (over_) return;
    const absl::StatusOr<Control::Logs> logs = control_.ReadLogs(request_);
    if (!logs.ok()) {
      over_ = true;
      if (started_) {
        exchange_->Finish();
      } else {
        exchange_->Respond(ToResponse(logs.status(), {}));
      }
    } else {
      if (!started_) exchange_->StartStream(kStreamType);
      started_ = true;
      if (!logs->part.log_output().empty()) {
        request_.set_after_timestamp(logs->part.latest_timestamp());
        over_ = !exchange_->Write(Frame(logs->part.SerializeAsString()));
      }
      if (logs->finished && !over_) {
        over_ = true;
        exchange_->Finish();
      }
    }
    if (over_) control_.UnwatchLogs(ticket_);
  }

  static std::string Frame(const std::string& message) {
    const auto size = static_cast<uint32_t>(message.size());
    std::string frame;
    for (const int shift : {24, 16, 8, 0}) frame += static_cast<char>(size >> shift);
    return frame + message;
  }

  Control& control_;
  const std::shared_ptr<HttpExchange> exchange_;
  const uint64_t ticket_;
  const uint64_t run_id_;
  Mutex mu_;
  flwr::proto::StreamLogsRequest request_ ABSL_GUARDED_BY(mu_);
  bool started_ ABSL_GUARDED_BY(mu_) = false;
  bool over_ ABSL_GUARDED_BY(mu_) = false;
};

class ControlHandler {
 public:
  ControlHandler(Control& control, AppHttpOptions options) : control_(control), options_(options) {
    Add("start-run", &Control::StartRun, {.precondition = kInvalidRunConfig});
    Add("list-runs", &Control::ListRuns, {});
    Add("stop-run", &Control::StopRun, {.precondition = kRunFinished});
    Add("register-node", &Control::RegisterNode, {.precondition = kInvalidKey});
    Add("unregister-node", &Control::UnregisterNode, {.not_found = kNodeNotFound});
    Add("list-nodes", &Control::ListNodes, {});
    calls_["stream-logs"] = [this](const std::shared_ptr<HttpExchange>& exchange) {
      flwr::proto::StreamLogsRequest request;
      if (!Decode(*exchange, request)) return;
      std::make_shared<LogStream>(control_, exchange, std::move(request), ++last_ticket_)->Start();
    };
  }

  void Serve(const std::shared_ptr<HttpExchange>& exchange) const {
    if (MayControl(options_, *exchange)) transport::Serve(calls_, kControlPath, exchange);
  }

 private:
  template <typename Request, typename Response>
  void Add(const std::string& name, absl::StatusOr<Response> (Control::*rpc)(const Request&),
           Codes codes) {
    calls_[name] = [this, rpc, codes](const std::shared_ptr<HttpExchange>& exchange) {
      Request request;
      if (Decode(*exchange, request)) Respond(*exchange, (control_.*rpc)(request), codes);
    };
  }

  Control& control_;
  const AppHttpOptions options_;
  Calls calls_;
  std::atomic<uint64_t> last_ticket_ = 0;
};

class RuntimeHandler {
 public:
  RuntimeHandler(Runtime& runtime, AppHttpOptions options) : runtime_(runtime), options_(options) {
    Add("send-task-heartbeat", &Runtime::SendTaskHeartbeat, {});
    Add("pull-task-input", &Runtime::PullTaskInput, {.precondition = kTaskStartFailed});
    Add("push-task-output", &Runtime::PushTaskOutput, {});
    Add("push-logs", &Runtime::PushLogs, {});
    Add("get-nodes", &Runtime::GetNodes, {});
    Add("push-messages", &Runtime::PushMessages, {.argument = kInvalidMessageCount});
    Add("push-object", &Runtime::PushObject, {.precondition = kUnexpectedNode});
    Add("pull-object", &Runtime::PullObject, {.precondition = kUnexpectedNode});
    Add("confirm-message-received", &Runtime::ConfirmMessageReceived,
        {.precondition = kUnexpectedNode});
    calls_["acquire-task"] = [this](const auto& exchange) { AcquireTask(exchange); };
    calls_["pull-messages"] = [this](const auto& exchange) { PullMessages(exchange); };
  }

  void Serve(const std::shared_ptr<HttpExchange>& exchange) const {
    transport::Serve(calls_, kRuntimePath, exchange);
  }

 private:
  template <typename Argument, typename Response>
  void Add(const std::string& name,
           absl::StatusOr<Response> (Runtime::*rpc)(std::string_view, Argument), Codes codes) {
    calls_[name] = [this, rpc, codes](const std::shared_ptr<HttpExchange>& exchange) {
      std::remove_cvref_t<Argument> request;
      if (!Decode(*exchange, request)) return;
      const std::string_view token = exchange->request().Header(kTokenHeader);
      Respond(*exchange, (runtime_.*rpc)(token, std::move(request)), codes);
    };
  }

  void AcquireTask(const std::shared_ptr<HttpExchange>& exchange) {
    flwr::proto::AcquireTaskRequest request;
    if (!MayControl(options_, *exchange) || !Decode(*exchange, request)) return;
    const uint64_t ticket = ++last_ticket_;
    runtime_.AcquireTask(request, kHold, ticket,
                         [exchange](const absl::StatusOr<flwr::proto::AcquireTaskResponse>& task) {
                           Respond(*exchange, task);
                         });
    // A task that does not reach the SuperExec is offered again. Set after the call, so that the
    // call of a SuperExec that has disconnected already is ended.
    exchange->OnGone([&runtime = runtime_, ticket] { runtime.CancelAcquire(ticket); });
  }

  void PullMessages(const std::shared_ptr<HttpExchange>& exchange) {
    flwr::proto::PullAppMessagesRequest request;
    if (!Decode(*exchange, request)) return;
    const uint64_t ticket = ++last_ticket_;
    runtime_.PullMessages(
        exchange->request().Header(kTokenHeader), request, kHold, ticket,
        [exchange](const absl::StatusOr<flwr::proto::PullAppMessagesResponse>& replies) {
          Respond(*exchange, replies);
        });
    exchange->OnGone([&runtime = runtime_, ticket] { runtime.CancelPull(ticket); });
  }

  Runtime& runtime_;
  const AppHttpOptions options_;
  Calls calls_;
  std::atomic<uint64_t> last_ticket_ = 0;
};

}  // namespace

HttpHandler NewControlHandler(Control& control, AppHttpOptions options) {
  return [handler = std::make_shared<ControlHandler>(control, options)](
             const std::shared_ptr<HttpExchange>& exchange) { handler->Serve(exchange); };
}

HttpHandler NewRuntimeHandler(Runtime& runtime, AppHttpOptions options) {
  return [handler = std::make_shared<RuntimeHandler>(runtime, options)](
             const std::shared_ptr<HttpExchange>& exchange) { handler->Serve(exchange); };
}

std::function<int64_t(const HttpRequest&)> AppBodyLimit(Runtime& runtime, int64_t usual,
                                                        int64_t max_object_bytes) {
  return [&runtime, usual, max_object_bytes](const HttpRequest& head) {
    const bool is_round = head.path == absl::StrCat(kRuntimePath, "push-messages");
    const bool is_object = head.path == absl::StrCat(kRuntimePath, "push-object");
    if (!(is_round || is_object) || !runtime.Knows(head.Header(kTokenHeader))) return usual;
    return std::max(usual, is_round ? kMaxRoundBytes : max_object_bytes + kObjectOverhead);
  };
}

}  // namespace fedumm::transport
