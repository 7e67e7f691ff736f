#include "transport/grpc_server.h"

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/server_callback.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "flwr/proto/fleet.grpc.pb.h"
#include "transport/grpc_calls.h"
#include "transport/grpc_listener.h"
#include "transport/objects_service.h"
#include "wire/value_count.h"

namespace fedumm::transport {
namespace {

using grpc::ByteBuffer;
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

// A call of any kind may be as large as an object that a node uploads, because gRPC knows one limit
// only. So requests arrive as bytes, and are parsed once their size is found to be right.
template <typename Request>
absl::StatusOr<Request> ParseRequest(const ByteBuffer& bytes, int64_t max_bytes) {
  if (static_cast<int64_t>(bytes.Length()) > max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a call of ", bytes.Length(), " bytes, limit ", max_bytes));
  }
  Request request;
  ByteBuffer copy = bytes;  // of references
  const grpc::Status status = grpc::SerializationTraits<Request>::Deserialize(&copy, &request);
  if (!status.ok()) return absl::InvalidArgumentError("the request is malformed");
  return request;
}

template <typename Response>
void WriteResponse(const Response& response, ByteBuffer& bytes) {
  bool own = false;
  grpc::SerializationTraits<Response>::Serialize(response, &bytes, &own);
}

// RESOURCE_EXHAUSTED is said as gRPC says it of a message that is too large.
grpc::Status ToStatus(const absl::Status& status) {
  if (!absl::IsResourceExhausted(status)) return ToGrpcStatus(status);
  return {grpc::StatusCode::RESOURCE_EXHAUSTED, std::string(status.message())};
}

// One call of PullMessages, which may be held. Deletes itself when gRPC has done with it.
class PullReactor final : public ServerUnaryReactor {
 public:
  PullReactor(Fleet& fleet, const CallbackServerContext& context,
              const flwr::proto::PullMessagesRequest& request, absl::Duration hold, uint64_t ticket,
              ByteBuffer& response)
      : fleet_(fleet), node_(request.node().node_id()), ticket_(ticket) {
    const auto num_bytes = static_cast<int64_t>(request.ByteSizeLong());
    fleet_.PullMessages(
        CallerOf(context), request, hold, ticket,
        [this, num_bytes,
         &response](const absl::StatusOr<flwr::proto::PullMessagesResponse>& result) {
          if (result.ok()) {
            WriteResponse(*result, response);
            fleet_.CountTraffic(node_, num_bytes + kGrpcFrameBytes,
                                static_cast<int64_t>(response.Length()) + kGrpcFrameBytes);
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

// All calls as bytes.
using FleetCalls = flwr::proto::Fleet;
template <typename Base>
using RawNodeCalls = FleetCalls::WithRawCallbackMethod_RegisterNode<
    FleetCalls::WithRawCallbackMethod_ActivateNode<FleetCalls::WithRawCallbackMethod_DeactivateNode<
        FleetCalls::WithRawCallbackMethod_UnregisterNode<
            FleetCalls::WithRawCallbackMethod_SendNodeHeartbeat<Base>>>>>;
template <typename Base>
using RawMessageCalls =
    FleetCalls::WithRawCallbackMethod_PullMessages<FleetCalls::WithRawCallbackMethod_PushMessages<
        FleetCalls::WithRawCallbackMethod_GetRun<FleetCalls::WithRawCallbackMethod_GetFab<
            FleetCalls::WithRawCallbackMethod_ConfirmMessageReceived<Base>>>>>;
template <typename Base>
using RawObjectCalls = FleetCalls::WithRawCallbackMethod_PushObject<
    FleetCalls::WithRawCallbackMethod_PullObject<Base>>;

class FleetService final
    : public RawNodeCalls<RawMessageCalls<RawObjectCalls<FleetCalls::Service>>> {
 public:
  FleetService(Fleet& fleet, absl::Duration max_pull_hold, const Limits& limits)
      : fleet_(fleet), max_pull_hold_(max_pull_hold), max_call_bytes_(limits.max_call_bytes) {}

  ServerUnaryReactor* RegisterNode(CallbackServerContext* context, const ByteBuffer* request,
                                   ByteBuffer* response) override {
    return Serve(context, *request, *response, &Fleet::RegisterNode);
  }
  ServerUnaryReactor* ActivateNode(CallbackServerContext* context, const ByteBuffer* request,
                                   ByteBuffer* response) override {
    return Serve(context, *request, *response, &Fleet::ActivateNode);
  }
  ServerUnaryReactor* DeactivateNode(CallbackServerContext* context, const ByteBuffer* request,
                                     ByteBuffer* response) override {
    return Serve(context, *request, *response, &Fleet::DeactivateNode);
  }
  ServerUnaryReactor* UnregisterNode(CallbackServerContext* context, const ByteBuffer* request,
                                     ByteBuffer* response) override {
    return Serve(context, *request, *response, &Fleet::UnregisterNode);
  }
  ServerUnaryReactor* SendNodeHeartbeat(CallbackServerContext* context, const ByteBuffer* request,
                                        ByteBuffer* response) override {
    return Serve(context, *request, *response, &Fleet::SendNodeHeartbeat);
  }
  ServerUnaryReactor* PullMessages(CallbackServerContext* context, const ByteBuffer* request,
                                   ByteBuffer* response) override {
    const absl::StatusOr<flwr::proto::PullMessagesRequest> parsed =
        ParseRequest<flwr::proto::PullMessagesRequest>(*request, max_call_bytes_);
    if (!parsed.ok()) return Finish(context, parsed.status());
    // The answer is sent well before the deadline of the call.
    const absl::Duration left = absl::FromChrono(context->deadline()) - absl::Now();
    return new PullReactor(fleet_, *context, *parsed, std::min(max_pull_hold_, left / 2),
                           ++last_ticket_, *response);
  }
  ServerUnaryReactor* PushMessages(CallbackServerContext* context, const ByteBuffer* request,
                                   ByteBuffer* response) override {
    absl::StatusOr<flwr::proto::PushMessagesRequest> parsed =
        ParseRequest<flwr::proto::PushMessagesRequest>(*request, max_call_bytes_);
    if (!parsed.ok()) return Finish(context, parsed.status());
    ServerUnaryReactor* reactor = context->DefaultReactor();
    const uint64_t node = parsed->node().node_id();
    const auto num_bytes = static_cast<int64_t>(request->Length());
    // The memory of the request is freed before the answer, which may have to wait.
    const_cast<ByteBuffer*>(request)->Clear();
    fleet_.AnnounceReply(
        CallerOf(*context), *std::move(parsed),
        [this, reactor, node, num_bytes,
         response](const absl::StatusOr<flwr::proto::PushMessagesResponse>& result) {
          if (result.ok()) {
            WriteResponse(*result, *response);
            fleet_.CountTraffic(node, num_bytes + kGrpcFrameBytes,
                                static_cast<int64_t>(response->Length()) + kGrpcFrameBytes);
          }
          reactor->Finish(ToGrpcStatus(result.status()));
        });
    return reactor;
  }
  ServerUnaryReactor* GetRun(CallbackServerContext* context, const ByteBuffer* request,
                             ByteBuffer* response) override {
    return Serve(context, *request, *response, &Fleet::GetRun);
  }
  ServerUnaryReactor* GetFab(CallbackServerContext* context, const ByteBuffer* request,
                             ByteBuffer* response) override {
    return Serve(context, *request, *response, &Fleet::GetFab);
  }
  ServerUnaryReactor* PushObject(CallbackServerContext* context, const ByteBuffer* request,
                                 ByteBuffer* response) override {
    const auto num_bytes = static_cast<int64_t>(request->Length());
    const Caller caller = CallerOf(*context);
    const int64_t max_bytes =
        num_bytes > max_call_bytes_ ? fleet_.MaxUploadBytes(caller, num_bytes) : max_call_bytes_;
    absl::StatusOr<flwr::proto::PushObjectRequest> parsed = ParseUpload(*request, max_bytes);
    const_cast<ByteBuffer*>(request)->Clear();
    if (!parsed.ok()) return Finish(context, parsed.status());
    const uint64_t node = parsed->node().node_id();
    const absl::StatusOr<flwr::proto::PushObjectResponse> result =
        fleet_.PushObject(caller, *std::move(parsed));
    if (result.ok()) {
      WriteResponse(*result, *response);
      fleet_.CountTraffic(node, num_bytes + kGrpcFrameBytes,
                          static_cast<int64_t>(response->Length()) + kGrpcFrameBytes);
    }
    return Finish(context, result.status());
  }
  ServerUnaryReactor* PullObject(CallbackServerContext* context, const ByteBuffer* request,
                                 ByteBuffer* response) override {
    return Serve(context, *request, *response, &Fleet::PullObject);
  }
  ServerUnaryReactor* ConfirmMessageReceived(CallbackServerContext* context,
                                             const ByteBuffer* request,
                                             ByteBuffer* response) override {
    return Serve(context, *request, *response, &Fleet::ConfirmMessageReceived);
  }

 private:
  template <typename Request, typename Response>
  ServerUnaryReactor* Serve(CallbackServerContext* context, const ByteBuffer& request,
                            ByteBuffer& response,
                            absl::StatusOr<Response> (Fleet::*rpc)(const Caller&, const Request&)) {
    const absl::StatusOr<Request> parsed = ParseRequest<Request>(request, max_call_bytes_);
    if (!parsed.ok()) return Finish(context, parsed.status());
    const absl::StatusOr<Response> result = (fleet_.*rpc)(CallerOf(*context), *parsed);
    if (result.ok()) {
      WriteResponse(*result, response);
      CountTraffic(fleet_, *parsed, *result);
    }
    return Finish(context, result.status());
  }
  // An upload has few fields, whatever its size.
  absl::StatusOr<flwr::proto::PushObjectRequest> ParseUpload(const ByteBuffer& bytes,
                                                             int64_t max_bytes) const {
    constexpr int64_t kMaxValues = 100;
    if (static_cast<int64_t>(bytes.Length()) > max_call_bytes_ &&
        static_cast<int64_t>(bytes.Length()) <= max_bytes) {
      ByteBuffer copy = bytes;
      grpc::ProtoBufferReader reader(&copy);
      FEDUMM_RETURN_IF_ERROR(
          wire::CheckValueCount(*flwr::proto::PushObjectRequest::descriptor(), reader, kMaxValues));
    }
    return ParseRequest<flwr::proto::PushObjectRequest>(bytes, max_bytes);
  }
  static ServerUnaryReactor* Finish(CallbackServerContext* context, const absl::Status& status) {
    ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToStatus(status));
    return reactor;
  }

  Fleet& fleet_;
  const absl::Duration max_pull_hold_;
  const int64_t max_call_bytes_;
  std::atomic<uint64_t> last_ticket_ = 0;
};

}  // namespace

class GrpcServer::Impl {
 public:
  Impl(Fleet& fleet, const Options& options)
      : service(fleet, options.max_pull_hold, options.limits),
        objects(NewObjectsService(fleet, options.limits)) {}

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
