#include "transport/grpc_client.h"

#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>

#include <span>
#include <stop_token>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "flwr/proto/fleet.grpc.pb.h"
#include "transport/call_signature.h"
#include "transport/grpc_channel.h"
#include "transport/object_buffers.h"
#include "wire/object_frame.h"

namespace fedumm {
namespace {

using flwr::proto::Fleet;

constexpr char kPullObjects[] = "/fedumm.proto.Objects/PullObjects";
constexpr char kPushObjects[] = "/fedumm.proto.Objects/PushObjects";

// One stream. Each step blocks until it is done. Not thread-safe; the context may be cancelled
// from anywhere.
class Stream {
 public:
  Stream(grpc::GenericStub& stub, grpc::ClientContext& context, const char* method)
      : call_(stub.PrepareCall(&context, method, &queue_)) {
    call_->StartCall(this);
    Await();
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  // `Finish` has been called.
  ~Stream() { queue_.Shutdown(); }

  // False when no more can be written.
  bool Write(const grpc::ByteBuffer& message, bool last) {
    if (last) {
      call_->WriteLast(message, grpc::WriteOptions(), this);
    } else {
      call_->Write(message, this);
    }
    return Await();
  }
  // False at the end of the stream.
  bool Read(grpc::ByteBuffer& message) {
    call_->Read(&message, this);
    return Await();
  }
  // Waits for the end of the call. Before, everything was read or the call was cancelled.
  absl::Status Finish() {
    grpc::Status status;
    call_->Finish(&status, this);
    Await();
    return transport::FromGrpcStatus(status);
  }

 private:
  bool Await() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::CompletionQueue queue_;
  const std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
};

template <typename T>
grpc::ByteBuffer Serialize(const T& message) {
  grpc::ByteBuffer buffer;
  bool own = false;
  grpc::SerializationTraits<T>::Serialize(message, &buffer, &own);
  return buffer;
}

class GrpcFleetClient final : public FleetClient {
 public:
  GrpcFleetClient(const transport::Route& route, const ClientTls* tls, const NodeKey& key,
                  const Limits& limits)
      : GrpcFleetClient(transport::NewGrpcChannel(route, tls, limits), key, limits) {}

  absl::StatusOr<flwr::proto::RegisterNodeFleetResponse> RegisterNode(
      const flwr::proto::RegisterNodeFleetRequest& request, const CallOptions& options) override {
    return Call(&Fleet::Stub::RegisterNode, request, options);
  }
  absl::StatusOr<flwr::proto::ActivateNodeResponse> ActivateNode(
      const flwr::proto::ActivateNodeRequest& request, const CallOptions& options) override {
    return Call(&Fleet::Stub::ActivateNode, request, options);
  }
  absl::StatusOr<flwr::proto::DeactivateNodeResponse> DeactivateNode(
      const flwr::proto::DeactivateNodeRequest& request, const CallOptions& options) override {
    return Call(&Fleet::Stub::DeactivateNode, request, options);
  }
  absl::StatusOr<flwr::proto::UnregisterNodeFleetResponse> UnregisterNode(
      const flwr::proto::UnregisterNodeFleetRequest& request, const CallOptions& options) override {
    return Call(&Fleet::Stub::UnregisterNode, request, options);
  }
  absl::StatusOr<flwr::proto::SendNodeHeartbeatResponse> SendNodeHeartbeat(
      const flwr::proto::SendNodeHeartbeatRequest& request, const CallOptions& options) override {
    return Call(&Fleet::Stub::SendNodeHeartbeat, request, options);
  }
  absl::StatusOr<flwr::proto::PullMessagesResponse> PullMessages(
      const flwr::proto::PullMessagesRequest& request, const CallOptions& options) override {
    return Call(&Fleet::Stub::PullMessages, request, options);
  }
  absl::StatusOr<flwr::proto::PushMessagesResponse> PushMessages(
      const flwr::proto::PushMessagesRequest& request, const CallOptions& options) override {
    return Call(&Fleet::Stub::PushMessages, request, options);
  }
  absl::StatusOr<flwr::proto::GetRunResponse> GetRun(const flwr::proto::GetRunRequest& request,
                                                     const CallOptions& options) override {
    return Call(&Fleet::Stub::GetRun, request, options);
  }
  absl::StatusOr<flwr::proto::GetFabResponse> GetFab(const flwr::proto::GetFabRequest& request,
                                                     const CallOptions& options) override {
    return Call(&Fleet::Stub::GetFab, request, options);
  }
  absl::StatusOr<flwr::proto::PushObjectResponse> PushObject(
      const flwr::proto::PushObjectRequest& request, const CallOptions& options) override {
    return Call(&Fleet::Stub::PushObject, request, options);
  }
  absl::StatusOr<flwr::proto::PullObjectResponse> PullObject(
      const flwr::proto::PullObjectRequest& request, const CallOptions& options) override {
    return Call(&Fleet::Stub::PullObject, request, options);
  }
  absl::StatusOr<flwr::proto::ConfirmMessageReceivedResponse> ConfirmMessageReceived(
      const flwr::proto::ConfirmMessageReceivedRequest& request,
      const CallOptions& options) override {
    return Call(&Fleet::Stub::ConfirmMessageReceived, request, options);
  }

  absl::Status PullObjects(const proto::PullObjectsRequest& request, const OnObject& on_object,
                           const CallOptions& options) override {
    grpc::ClientContext context;
    FEDUMM_RETURN_IF_ERROR(Prepare(context, options));
    const std::stop_callback cancel(options.cancel, [&context] { context.TryCancel(); });
    Stream stream(objects_, context, kPullObjects);
    stream.Write(Serialize(request), /*last=*/true);
    grpc::ByteBuffer buffer;
    absl::Status received;
    while (received.ok() && stream.Read(buffer)) received = Receive(buffer, on_object);
    if (!received.ok()) context.TryCancel();
    const absl::Status finished = stream.Finish();
    return received.ok() ? finished : received;
  }

  absl::StatusOr<proto::PushObjectsResponse> PushObjects(const proto::PushObjectsRequest& sender,
                                                         std::span<const wire::Object> objects,
                                                         const CallOptions& options) override {
    grpc::ClientContext context;
    FEDUMM_RETURN_IF_ERROR(Prepare(context, options));
    const std::stop_callback cancel(options.cancel, [&context] { context.TryCancel(); });
    Stream stream(objects_, context, kPushObjects);
    std::string head = sender.SerializeAsString();
    bool open = true;
    while (open && !(objects.empty() && head.empty())) {
      const std::span<const wire::Object> frame = objects.first(wire::NumInFrame(objects));
      objects = objects.subspan(frame.size());
      open = stream.Write(transport::FrameBuffer(head, frame), /*last=*/objects.empty());
      head.clear();
    }
    proto::PushObjectsResponse response;
    grpc::ByteBuffer buffer;
    bool malformed = false;
    if (stream.Read(buffer)) {
      malformed =
          !grpc::SerializationTraits<proto::PushObjectsResponse>::Deserialize(&buffer, &response)
               .ok();
    }
    FEDUMM_RETURN_IF_ERROR(stream.Finish());
    if (malformed) return absl::InternalError("the server's answer is malformed");
    return response;
  }

 private:
  GrpcFleetClient(std::shared_ptr<grpc::Channel> channel, const NodeKey& key, const Limits& limits)
      : key_(key), limits_(limits), stub_(Fleet::NewStub(channel)), objects_(std::move(channel)) {}

  absl::Status Receive(grpc::ByteBuffer& buffer, const OnObject& on_object) const {
    FEDUMM_ASSIGN_OR_RETURN(wire::ReceivedFrame frame,
                            transport::ParseFrameBuffer(buffer, limits_));
    for (wire::ReceivedObject& object : frame.objects) {
      FEDUMM_RETURN_IF_ERROR(on_object(std::move(object.id), std::move(object.bytes)));
    }
    return absl::OkStatus();
  }

  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (Fleet::Stub::*rpc)(grpc::ClientContext*,
                                                                 const Request&, Response*),
                                const Request& request, const CallOptions& options) {
    grpc::ClientContext context;
    FEDUMM_RETURN_IF_ERROR(Prepare(context, options));
    const std::stop_callback cancel(options.cancel, [&context] { context.TryCancel(); });
    Response response;
    FEDUMM_RETURN_IF_ERROR(transport::FromGrpcStatus((*stub_.*rpc)(&context, request, &response)));
    return response;
  }

  absl::Status Prepare(grpc::ClientContext& context, const CallOptions& options) const {
    context.set_deadline(absl::ToChronoTime(absl::Now() + options.timeout));
    FEDUMM_ASSIGN_OR_RETURN(const transport::CallSignature signature, transport::SignCall(key_));
    context.AddMetadata("flwr-public-key-bin", key_.public_key_pem());
    context.AddMetadata("flwr-timestamp", signature.timestamp);
    context.AddMetadata("flwr-signature-bin", signature.signature);
    context.AddMetadata("flwr-package-name", "fedumm");
    context.AddMetadata("flwr-package-version", FEDUMM_VERSION);
    context.AddMetadata("flwr-component-name", "SuperNode");
    return absl::OkStatus();
  }

  const NodeKey& key_;
  const Limits limits_;
  const std::unique_ptr<Fleet::Stub> stub_;
  grpc::GenericStub objects_;
};

}  // namespace

std::unique_ptr<FleetClient> NewGrpcFleetClient(const transport::Route& route, const ClientTls* tls,
                                                const NodeKey& key, const Limits& limits) {
  return std::make_unique<GrpcFleetClient>(route, tls, key, limits);
}

}  // namespace fedumm
