#include "transport/grpc_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <limits>
#include <stop_token>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "flwr/proto/fleet.grpc.pb.h"

namespace fedumm {
namespace {

using flwr::proto::Fleet;

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED) {
    return absl::UnimplementedError(absl::StrCat(
        "the server lacks a call that fedumm ", FEDUMM_VERSION,
        " makes: it is older than Flower 1.23, or no gRPC Fleet API: ", status.error_message()));
  }
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

grpc::ChannelArguments ChannelArguments(const Limits& limits) {
  constexpr int64_t kEnvelope = 1 << 20;  // what a response holds beside one object
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(
      std::min<int64_t>(limits.max_object_bytes + kEnvelope, std::numeric_limits<int>::max())));
  arguments.SetMaxSendMessageSize(-1);
  // Come back soon after the server does; the node's own back-off spreads the calls.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // Nodes of one process are as independent as those of two.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return arguments;
}

class GrpcFleetClient final : public FleetClient {
 public:
  GrpcFleetClient(const std::string& address, const NodeKey& key, const Limits& limits)
      : key_(key),
        stub_(Fleet::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(),
                                                       ChannelArguments(limits)))) {}

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
    FEDUMM_RETURN_IF_ERROR(FromGrpcStatus((*stub_.*rpc)(&context, request, &response)));
    return response;
  }

  absl::Status Sign(grpc::ClientContext& context) const {
    const std::string timestamp =
        absl::FormatTime("%Y-%m-%dT%H:%M:%E6S+00:00", absl::Now(), absl::UTCTimeZone());
    FEDUMM_ASSIGN_OR_RETURN(std::string signature, key_.Sign(timestamp));
    context.AddMetadata("flwr-public-key-bin", key_.public_key_pem());
    context.AddMetadata("flwr-timestamp", timestamp);
    context.AddMetadata("flwr-signature-bin", signature);
    context.AddMetadata("flwr-package-name", "fedumm");
    context.AddMetadata("flwr-package-version", FEDUMM_VERSION);
    context.AddMetadata("flwr-component-name", "SuperNode");
    return absl::OkStatus();
  }

  const NodeKey& key_;
  const std::unique_ptr<Fleet::Stub> stub_;
};

}  // namespace

std::unique_ptr<FleetClient> NewGrpcFleetClient(const std::string& address, const NodeKey& key,
                                                const Limits& limits) {
  return std::make_unique<GrpcFleetClient>(address, key, limits);
}

}  // namespace fedumm
