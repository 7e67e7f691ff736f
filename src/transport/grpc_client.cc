#include "transport/grpc_client.h"

#include <grpcpp/client_context.h>

#include <stop_token>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "flwr/proto/fleet.grpc.pb.h"
#include "transport/call_signature.h"
#include "transport/grpc_channel.h"

namespace fedumm {
namespace {

using flwr::proto::Fleet;

class GrpcFleetClient final : public FleetClient {
 public:
  GrpcFleetClient(const std::string& address, const ClientTls* tls, const NodeKey& key,
                  const Limits& limits)
      : key_(key), stub_(Fleet::NewStub(transport::NewGrpcChannel(address, tls, limits))) {}

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

 private:
  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (Fleet::Stub::*rpc)(grpc::ClientContext*,
                                                                 const Request&, Response*),
                                const Request& request, const CallOptions& options) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + options.timeout));
    FEDUMM_RETURN_IF_ERROR(Sign(context));
    const std::stop_callback cancel(options.cancel, [&context] { context.TryCancel(); });
    Response response;
    FEDUMM_RETURN_IF_ERROR(transport::FromGrpcStatus((*stub_.*rpc)(&context, request, &response)));
    return response;
  }

  absl::Status Sign(grpc::ClientContext& context) const {
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
  const std::unique_ptr<Fleet::Stub> stub_;
};

}  // namespace

std::unique_ptr<FleetClient> NewGrpcFleetClient(const std::string& address, const ClientTls* tls,
                                                const NodeKey& key, const Limits& limits) {
  return std::make_unique<GrpcFleetClient>(address, tls, key, limits);
}

}  // namespace fedumm
