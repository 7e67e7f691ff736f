#include "transport/grpc_server.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "flwr/proto/fleet.grpc.pb.h"

namespace fedumm::transport {
namespace {

using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;
using link::Caller;
using link::Fleet;

constexpr int64_t kFrameBytes = 5;  // before each message
// An object tree, or what is around an object.
constexpr int64_t kMessageOverhead = int64_t{8} << 20;
// Of all calls together, before their senders are known.
constexpr size_t kReceiveBufferBytes = size_t{2} << 30;
constexpr int kMaxCallsOfOneConnection = 64;

// What a Flower node understands. It takes any other code for a reason to leave, so trouble of any
// other kind asks it to try again.
grpc::Status ToGrpcStatus(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return grpc::Status::OK;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kInvalidArgument:
      return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
    default:
      return {grpc::StatusCode::UNAVAILABLE, std::string(status.message())};
  }
}

std::string Metadatum(const CallbackServerContext& context, const char* key) {
  const auto it = context.client_metadata().find(key);
  return it == context.client_metadata().end() ? std::string()
                                               : std::string(it->second.data(), it->second.size());
}

Caller CallerOf(const CallbackServerContext& context) {
  return {.public_key = Metadatum(context, "flwr-public-key-bin"),
          .timestamp = Metadatum(context, "flwr-timestamp"),
          .signature = Metadatum(context, "flwr-signature-bin")};
}

template <typename Request, typename Response>
uint64_t NodeOf(const Request& request, const Response& response) {
  if constexpr (requires { request.node(); }) {
    return request.node().node_id();
  } else if constexpr (requires { request.node_id(); }) {
    return request.node_id();
  } else {
    return response.node_id();
  }
}

template <typename Request, typename Response>
void CountTraffic(Fleet& fleet, const Request& request, const Response& response) {
  fleet.CountTraffic(NodeOf(request, response),
                     static_cast<int64_t>(request.ByteSizeLong()) + kFrameBytes,
                     static_cast<int64_t>(response.ByteSizeLong()) + kFrameBytes);
}

// One call of PullMessages, which may be held. Deletes itself when gRPC has done with it.
class PullReactor final : public ServerUnaryReactor {
 public:
  PullReactor(Fleet& fleet, const CallbackServerContext& context,
              const flwr::proto::PullMessagesRequest& request, absl::Duration hold, uint64_t ticket,
              flwr::proto::PullMessagesResponse& response)
      : fleet_(fleet), node_(request.node().node_id()), ticket_(ticket) {
    fleet_.PullMessages(
        CallerOf(context), request, hold, ticket,
        [this, &request, &response](absl::StatusOr<flwr::proto::PullMessagesResponse> result) {
          if (result.ok()) {
            response = std::move(*result);
            CountTraffic(fleet_, request, response);
          }
          Finish(ToGrpcStatus(result.status()));
        });
  }

 private:
  void OnCancel() override { fleet_.CancelPull(node_, ticket_); }
  void OnDone() override { delete this; }

  Fleet& fleet_;
  const uint64_t node_;
  const uint64_t ticket_;
};

class FleetService final : public flwr::proto::Fleet::CallbackService {
 public:
  FleetService(Fleet& fleet, absl::Duration max_pull_hold)
      : fleet_(fleet), max_pull_hold_(max_pull_hold) {}

  ServerUnaryReactor* RegisterNode(CallbackServerContext* context,
                                   const flwr::proto::RegisterNodeFleetRequest* request,
                                   flwr::proto::RegisterNodeFleetResponse* response) override {
    return Serve(context, *request, *response, &Fleet::RegisterNode);
  }
  ServerUnaryReactor* ActivateNode(CallbackServerContext* context,
                                   const flwr::proto::ActivateNodeRequest* request,
                                   flwr::proto::ActivateNodeResponse* response) override {
    return Serve(context, *request, *response, &Fleet::ActivateNode);
  }
  ServerUnaryReactor* DeactivateNode(CallbackServerContext* context,
                                     const flwr::proto::DeactivateNodeRequest* request,
                                     flwr::proto::DeactivateNodeResponse* response) override {
    return Serve(context, *request, *response, &Fleet::DeactivateNode);
  }
  ServerUnaryReactor* UnregisterNode(CallbackServerContext* context,
                                     const flwr::proto::UnregisterNodeFleetRequest* request,
                                     flwr::proto::UnregisterNodeFleetResponse* response) override {
    return Serve(context, *request, *response, &Fleet::UnregisterNode);
  }
  ServerUnaryReactor* SendNodeHeartbeat(CallbackServerContext* context,
                                        const flwr::proto::SendNodeHeartbeatRequest* request,
                                        flwr::proto::SendNodeHeartbeatResponse* response) override {
    return Serve(context, *request, *response, &Fleet::SendNodeHeartbeat);
  }
  ServerUnaryReactor* PullMessages(CallbackServerContext* context,
                                   const flwr::proto::PullMessagesRequest* request,
                                   flwr::proto::PullMessagesResponse* response) override {
    // A caller with a deadline gets its answer well before.
    const absl::Duration left = absl::FromChrono(context->deadline()) - absl::Now();
    return new PullReactor(fleet_, *context, *request, std::min(max_pull_hold_, left / 2),
                           ++last_ticket_, *response);
  }
  ServerUnaryReactor* PushMessages(CallbackServerContext* context,
                                   const flwr::proto::PushMessagesRequest* request,
                                   flwr::proto::PushMessagesResponse* response) override {
    return Serve(context, *request, *response, &Fleet::PushMessages);
  }
  ServerUnaryReactor* GetRun(CallbackServerContext* context,
                             const flwr::proto::GetRunRequest* request,
                             flwr::proto::GetRunResponse* response) override {
    return Serve(context, *request, *response, &Fleet::GetRun);
  }
  ServerUnaryReactor* GetFab(CallbackServerContext* context,
                             const flwr::proto::GetFabRequest* request,
                             flwr::proto::GetFabResponse* response) override {
    return Serve(context, *request, *response, &Fleet::GetFab);
  }
  ServerUnaryReactor* PushObject(CallbackServerContext* context,
                                 const flwr::proto::PushObjectRequest* request,
                                 flwr::proto::PushObjectResponse* response) override {
    return Serve(context, *request, *response, &Fleet::PushObject);
  }
  ServerUnaryReactor* PullObject(CallbackServerContext* context,
                                 const flwr::proto::PullObjectRequest* request,
                                 flwr::proto::PullObjectResponse* response) override {
    return Serve(context, *request, *response, &Fleet::PullObject);
  }
  ServerUnaryReactor* ConfirmMessageReceived(
      CallbackServerContext* context, const flwr::proto::ConfirmMessageReceivedRequest* request,
      flwr::proto::ConfirmMessageReceivedResponse* response) override {
    return Serve(context, *request, *response, &Fleet::ConfirmMessageReceived);
  }

 private:
  template <typename Request, typename Response>
  ServerUnaryReactor* Serve(CallbackServerContext* context, const Request& request,
                            Response& response,
                            absl::StatusOr<Response> (Fleet::*rpc)(const Caller&, const Request&)) {
    absl::StatusOr<Response> result = (fleet_.*rpc)(CallerOf(*context), request);
    if (result.ok()) {
      response = std::move(*result);
      CountTraffic(fleet_, request, response);
    }
    ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpcStatus(result.status()));
    return reactor;
  }

  Fleet& fleet_;
  const absl::Duration max_pull_hold_;
  std::atomic<uint64_t> last_ticket_ = 0;
};

absl::Status CheckAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("the address is not host:port: ", address));
  }
  return absl::OkStatus();
}

}  // namespace

class GrpcServer::Impl {
 public:
  Impl(Fleet& fleet, absl::Duration max_pull_hold) : service(fleet, max_pull_hold) {}

  FleetService service;
  int port = 0;
  std::unique_ptr<grpc::Server> server;  // destroyed before the service
};

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(Fleet& fleet, Options options) {
  if (absl::Status status = CheckAddress(options.address); !status.ok()) return status;
  auto impl = std::make_unique<Impl>(fleet, options.max_pull_hold);
  const int max_message_bytes = static_cast<int>(std::min<int64_t>(
      options.limits.max_object_bytes + kMessageOverhead, std::numeric_limits<int>::max()));
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options.address, grpc::InsecureServerCredentials(), &impl->port);
  builder.SetMaxReceiveMessageSize(max_message_bytes);
  builder.SetMaxSendMessageSize(max_message_bytes);
  grpc::ResourceQuota quota("fedumm");
  quota.Resize(kReceiveBufferBytes);
  builder.SetResourceQuota(quota);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxCallsOfOneConnection);
  // Two servers on one port would share its calls at random.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 210'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder.RegisterService(&impl->service);
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr || impl->port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options.address));
  }
  return std::unique_ptr<GrpcServer>(new GrpcServer(std::move(impl)));
}

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GrpcServer::~GrpcServer() { Shutdown(); }

int GrpcServer::port() const { return impl_->port; }

void GrpcServer::Shutdown() {
  impl_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
}

}  // namespace fedumm::transport
