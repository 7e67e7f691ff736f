#include "transport/grpc_server.h"

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "flwr/proto/fleet.grpc.pb.h"
#include "transport/grpc_calls.h"
#include "transport/grpc_listener.h"
#include "transport/objects_service.h"

namespace fedumm::transport {
namespace {

using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;
using link::Caller;
using link::Fleet;

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
                     static_cast<int64_t>(request.ByteSizeLong()) + kGrpcFrameBytes,
                     static_cast<int64_t>(response.ByteSizeLong()) + kGrpcFrameBytes);
}

// One call of PullMessages, which may be held. Deletes itself in OnDone.
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
    // The answer is sent well before the deadline of the call.
    const absl::Duration left = absl::FromChrono(context->deadline()) - absl::Now();
    return new PullReactor(fleet_, *context, *request, std::min(max_pull_hold_, left / 2),
                           ++last_ticket_, *response);
  }
  ServerUnaryReactor* PushMessages(CallbackServerContext* context,
                                   const flwr::proto::PushMessagesRequest* request,
                                   flwr::proto::PushMessagesResponse* response) override {
    ServerUnaryReactor* reactor = context->DefaultReactor();
    const uint64_t node = request->node().node_id();
    const auto num_bytes = static_cast<int64_t>(request->ByteSizeLong());
    // gRPC parsed the request for this call alone: its memory is freed before the answer, which may
    // have to wait.
    fleet_.AnnounceReply(
        CallerOf(*context), std::move(*const_cast<flwr::proto::PushMessagesRequest*>(request)),
        [this, reactor, node, num_bytes,
         response](absl::StatusOr<flwr::proto::PushMessagesResponse> result) {
          if (result.ok()) {
            *response = *std::move(result);
            fleet_.CountTraffic(node, num_bytes + kGrpcFrameBytes,
                                static_cast<int64_t>(response->ByteSizeLong()) + kGrpcFrameBytes);
          }
          reactor->Finish(ToGrpcStatus(
              result.status()));  // NOLINT(bugprone-use-after-move): only its value was moved
        });
    return reactor;
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
    const auto num_bytes = static_cast<int64_t>(request->ByteSizeLong());
    // gRPC parsed the request for this call alone: its bytes become the stored object.
    absl::StatusOr<flwr::proto::PushObjectResponse> result = fleet_.PushObject(
        CallerOf(*context), std::move(*const_cast<flwr::proto::PushObjectRequest*>(request)));
    if (result.ok()) {
      *response = *std::move(result);
      fleet_.CountTraffic(request->node().node_id(), num_bytes + kGrpcFrameBytes,
                          static_cast<int64_t>(response->ByteSizeLong()) + kGrpcFrameBytes);
    }
    return Finish(context,
                  result.status());  // NOLINT(bugprone-use-after-move): only its value was moved
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
    return Finish(context, result.status());
  }
  static ServerUnaryReactor* Finish(CallbackServerContext* context, const absl::Status& status) {
    ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpcStatus(status));
    return reactor;
  }

  Fleet& fleet_;
  const absl::Duration max_pull_hold_;
  std::atomic<uint64_t> last_ticket_ = 0;
};

}  // namespace

class GrpcServer::Impl {
 public:
  Impl(Fleet& fleet, const Options& options)
      : service(fleet, options.max_pull_hold), objects(NewObjectsService(fleet, options.limits)) {}

  FleetService service;
  const std::unique_ptr<grpc::Service> objects;
  GrpcListener listener;  // destroyed before the services
};

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(Fleet& fleet, Options options) {
  auto impl = std::make_unique<Impl>(fleet, options);
  FEDUMM_ASSIGN_OR_RETURN(impl->listener, StartGrpcListener({.address = options.address,
                                                             .tls = std::move(options.tls),
                                                             .limits = options.limits},
                                                            {&impl->service, impl->objects.get()}));
  return std::unique_ptr<GrpcServer>(new GrpcServer(std::move(impl)));
}

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GrpcServer::~GrpcServer() { Shutdown(); }

int GrpcServer::port() const { return impl_->listener.port; }

void GrpcServer::Shutdown() { impl_->listener.Shutdown(); }

}  // namespace fedumm::transport
