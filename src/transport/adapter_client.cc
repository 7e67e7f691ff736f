#include <grpcpp/client_context.h>

#include <stop_token>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "flwr/proto/grpcadapter.grpc.pb.h"
#include "transport/adapter_container.h"
#include "transport/grpc_channel.h"
#include "transport/grpc_client.h"

namespace fedumm {
namespace {

using flwr::proto::GrpcAdapter;
using flwr::proto::MessageContainer;

class AdapterFleetClient final : public FleetClient {
 public:
  AdapterFleetClient(const transport::Route& route, const ClientTls* tls, const Limits& limits)
      : stub_(GrpcAdapter::NewStub(transport::NewGrpcChannel(route, tls, limits))) {}

  absl::StatusOr<flwr::proto::RegisterNodeFleetResponse> RegisterNode(
      const flwr::proto::RegisterNodeFleetRequest& request, const CallOptions& options) override {
    return Call<flwr::proto::RegisterNodeFleetResponse>(request, options);
  }
  absl::StatusOr<flwr::proto::ActivateNodeResponse> ActivateNode(
      const flwr::proto::ActivateNodeRequest& request, const CallOptions& options) override {
    return Call<flwr::proto::ActivateNodeResponse>(request, options);
  }
  absl::StatusOr<flwr::proto::DeactivateNodeResponse> DeactivateNode(
      const flwr::proto::DeactivateNodeRequest& request, const CallOptions& options) override {
    return Call<flwr::proto::DeactivateNodeResponse>(request, options);
  }
  absl::StatusOr<flwr::proto::UnregisterNodeFleetResponse> UnregisterNode(
      const flwr::proto::UnregisterNodeFleetRequest& request, const CallOptions& options) override {
    return Call<flwr::proto::UnregisterNodeFleetResponse>(request, options);
  }
  absl::StatusOr<flwr::proto::SendNodeHeartbeatResponse> SendNodeHeartbeat(
      const flwr::proto::SendNodeHeartbeatRequest& request, const CallOptions& options) override {
    return Call<flwr::proto::SendNodeHeartbeatResponse>(request, options);
  }
  absl::StatusOr<flwr::proto::PullMessagesResponse> PullMessages(
      const flwr::proto::PullMessagesRequest& request, const CallOptions& options) override {
    return Call<flwr::proto::PullMessagesResponse>(request, options);
  }
  absl::StatusOr<flwr::proto::PushMessagesResponse> PushMessages(
      const flwr::proto::PushMessagesRequest& request, const CallOptions& options) override {
    return Call<flwr::proto::PushMessagesResponse>(request, options);
  }
  absl::StatusOr<flwr::proto::GetRunResponse> GetRun(const flwr::proto::GetRunRequest& request,
                                                     const CallOptions& options) override {
    return Call<flwr::proto::GetRunResponse>(request, options);
  }
  absl::StatusOr<flwr::proto::GetFabResponse> GetFab(const flwr::proto::GetFabRequest& request,
                                                     const CallOptions& options) override {
    return Call<flwr::proto::GetFabResponse>(request, options);
  }
  absl::StatusOr<flwr::proto::PushObjectResponse> PushObject(
      const flwr::proto::PushObjectRequest& request, const CallOptions& options) override {
    return Call<flwr::proto::PushObjectResponse>(request, options);
  }
  absl::StatusOr<flwr::proto::PullObjectResponse> PullObject(
      const flwr::proto::PullObjectRequest& request, const CallOptions& options) override {
    return Call<flwr::proto::PullObjectResponse>(request, options);
  }
  absl::StatusOr<flwr::proto::ConfirmMessageReceivedResponse> ConfirmMessageReceived(
      const flwr::proto::ConfirmMessageReceivedRequest& request,
      const CallOptions& options) override {
    return Call<flwr::proto::ConfirmMessageReceivedResponse>(request, options);
  }

 private:
  template <typename Response, typename Request>
  absl::StatusOr<Response> Call(const Request& request, const CallOptions& options) {
    FEDUMM_RETURN_IF_ERROR(Ended());
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + options.timeout));
    const std::stop_callback cancel(options.cancel, [&context] { context.TryCancel(); });
    MessageContainer answer;
    const absl::Status status = transport::FromGrpcStatus(
        stub_->SendReceive(&context, transport::Contain(request), &answer));
    FEDUMM_RETURN_IF_ERROR(status);
    const auto should_exit = answer.metadata().find(transport::kShouldExit);
    if (should_exit != answer.metadata().end() && should_exit->second == "true") {
      return End();
    }
    Response response;
    if (answer.grpc_message_name() != Response::descriptor()->name() ||
        !response.ParseFromString(answer.grpc_message_content())) {
      return absl::InternalError(absl::StrCat("the tunnel brought no ",
                                              Response::descriptor()->name(), " but a ",
                                              Printable(answer.grpc_message_name())));
    }
    return response;
  }

  absl::Status Ended() {
    const MutexLock lock(mu_);
    return ended_;
  }
  absl::Status End() {
    const MutexLock lock(mu_);
    ended_ = absl::AbortedError("the server sent this node home");
    return ended_;
  }

  const std::unique_ptr<GrpcAdapter::Stub> stub_;
  Mutex mu_;
  absl::Status ended_ ABSL_GUARDED_BY(mu_);  // once it is an error it stays
};

}  // namespace

std::unique_ptr<FleetClient> NewGrpcAdapterFleetClient(const transport::Route& route,
                                                       const ClientTls* tls, const Limits& limits) {
  return std::make_unique<AdapterFleetClient>(route, tls, limits);
}

}  // namespace fedumm
