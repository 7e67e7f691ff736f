#include "transport/discovery.h"

#include <span>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "transport/grpc_client.h"
#include "transport/http_fleet_client.h"
#include "transport/probe.h"

namespace fedumm::transport {
namespace {

Acceptable AcceptableTo(Transport transport) {
  switch (transport) {
    case Transport::kHttp:
      return {.one = true, .two = false};
    case Transport::kGrpcRere:
    case Transport::kGrpcAdapter:
      return {.one = false, .two = true};
    case Transport::kAuto:
      break;
  }
  return {};
}

std::string NameOf(HttpVersion version) {
  return version == HttpVersion::kOne ? "HTTP (Flower from 1.40)" : "gRPC (Flower up to 1.39)";
}

class DiscoveringClient final : public Discovery {
 public:
  // `http` and `grpc`: the ways to the server over each.
  DiscoveringClient(Options options, Route http, Route grpc, std::unique_ptr<const TlsClient> tls,
                    const NodeKey& key)
      : options_(std::move(options)),
        http_(std::move(http)),
        grpc_(std::move(grpc)),
        tls_(std::move(tls)),
        key_(key) {}

  absl::Status LookOnce(std::stop_token cancel) override {
    const absl::Status found =
        Client({.timeout = kFirstLook, .cancel = std::move(cancel)}).status();
    return absl::IsFailedPrecondition(found) ? found : absl::OkStatus();
  }

  absl::StatusOr<flwr::proto::RegisterNodeFleetResponse> RegisterNode(
      const flwr::proto::RegisterNodeFleetRequest& request, const CallOptions& options) override {
    return Call(&FleetClient::RegisterNode, request, options);
  }
  absl::StatusOr<flwr::proto::ActivateNodeResponse> ActivateNode(
      const flwr::proto::ActivateNodeRequest& request, const CallOptions& options) override {
    return Call(&FleetClient::ActivateNode, request, options);
  }
  absl::StatusOr<flwr::proto::DeactivateNodeResponse> DeactivateNode(
      const flwr::proto::DeactivateNodeRequest& request, const CallOptions& options) override {
    return Call(&FleetClient::DeactivateNode, request, options);
  }
  absl::StatusOr<flwr::proto::UnregisterNodeFleetResponse> UnregisterNode(
      const flwr::proto::UnregisterNodeFleetRequest& request, const CallOptions& options) override {
    return Call(&FleetClient::UnregisterNode, request, options);
  }
  absl::StatusOr<flwr::proto::SendNodeHeartbeatResponse> SendNodeHeartbeat(
      const flwr::proto::SendNodeHeartbeatRequest& request, const CallOptions& options) override {
    return Call(&FleetClient::SendNodeHeartbeat, request, options);
  }
  absl::StatusOr<flwr::proto::PullMessagesResponse> PullMessages(
      const flwr::proto::PullMessagesRequest& request, const CallOptions& options) override {
    return Call(&FleetClient::PullMessages, request, options);
  }
  absl::StatusOr<flwr::proto::PushMessagesResponse> PushMessages(
      const flwr::proto::PushMessagesRequest& request, const CallOptions& options) override {
    return Call(&FleetClient::PushMessages, request, options);
  }
  absl::StatusOr<flwr::proto::GetRunResponse> GetRun(const flwr::proto::GetRunRequest& request,
                                                     const CallOptions& options) override {
    return Call(&FleetClient::GetRun, request, options);
  }
  absl::StatusOr<flwr::proto::GetFabResponse> GetFab(const flwr::proto::GetFabRequest& request,
                                                     const CallOptions& options) override {
    return Call(&FleetClient::GetFab, request, options);
  }
  absl::StatusOr<flwr::proto::PushObjectResponse> PushObject(
      const flwr::proto::PushObjectRequest& request, const CallOptions& options) override {
    return Call(&FleetClient::PushObject, request, options);
  }
  absl::StatusOr<flwr::proto::PullObjectResponse> PullObject(
      const flwr::proto::PullObjectRequest& request, const CallOptions& options) override {
    return Call(&FleetClient::PullObject, request, options);
  }
  absl::StatusOr<flwr::proto::ConfirmMessageReceivedResponse> ConfirmMessageReceived(
      const flwr::proto::ConfirmMessageReceivedRequest& request,
      const CallOptions& options) override {
    return Call(&FleetClient::ConfirmMessageReceived, request, options);
  }
  // Called after other calls, when the transport is known: UNIMPLEMENTED only means that the server
  // lacks this call.
  absl::Status PullObjects(const proto::PullObjectsRequest& request, const OnObject& on_object,
                           const CallOptions& options) override {
    FEDUMM_ASSIGN_OR_RETURN(const Shared client, Client(options));
    const absl::Status pulled = client->PullObjects(request, on_object, options);
    if (pulled.ok() || absl::IsUnavailable(pulled)) Note(pulled.ok());
    return Named(pulled);
  }
  absl::StatusOr<proto::PushObjectsResponse> PushObjects(const proto::PushObjectsRequest& sender,
                                                         std::span<const wire::Object> objects,
                                                         const CallOptions& options) override {
    FEDUMM_ASSIGN_OR_RETURN(const Shared client, Client(options));
    auto pushed = client->PushObjects(sender, objects, options);
    if (pushed.ok() || absl::IsUnavailable(pushed.status())) Note(pushed.ok());
    if (!pushed.ok()) return Named(pushed.status());
    return pushed;
  }

 private:
  static constexpr absl::Duration kFirstLook = absl::Seconds(10);

  using Shared = std::shared_ptr<FleetClient>;

  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(absl::StatusOr<Response> (FleetClient::*rpc)(const Request&,
                                                                             const CallOptions&),
                                const Request& request, const CallOptions& options) {
    FEDUMM_ASSIGN_OR_RETURN(Shared client, Client(options));
    absl::StatusOr<Response> response = ((*client).*rpc)(request, options);
    if (absl::IsUnimplemented(response.status())) {
      client = Adapter(client);
      if (client != nullptr) response = ((*client).*rpc)(request, options);
    }
    if (response.ok() || absl::IsUnavailable(response.status())) Note(response.ok());
    if (!response.ok()) return Named(response.status());
    return response;
  }

  // The client for the next call. Probes the server first if it was unreachable.
  absl::StatusOr<Shared> Client(const CallOptions& options) {
    {
      MutexLock lock(mutex_);
      if (client_ != nullptr && !doubtful_) return client_;
    }
    const Acceptable acceptable = AcceptableTo(options_.transport);
    FEDUMM_ASSIGN_OR_RETURN(const HttpVersion version,
                            Look(acceptable, Until::After(options.timeout, options.cancel)));
    if (version == HttpVersion::kOne ? !acceptable.one : !acceptable.two) {
      return absl::FailedPreconditionError(
          absl::StrCat(options_.server, " speaks ", NameOf(version),
                       ", and this node was told to use another transport"));
    }
    MutexLock lock(mutex_);
    doubtful_ = false;
    if (client_ == nullptr || version != version_) {
      client_ = NewClient(version);
      version_ = version;
      proven_ = false;
      Announce(absl::StrCat(RouteOf(version).ToString(), " speaks ", NameOf(version)));
    }
    return client_;
  }

  absl::StatusOr<HttpVersion> Look(Acceptable acceptable, const Until& until) const {
    if (!acceptable.one) return Probe(grpc_, tls_.get(), acceptable, until);
    if (!acceptable.two || http_.proxy == grpc_.proxy) {
      return Probe(http_, tls_.get(), acceptable, until);
    }
    const auto over_http = Probe(http_, tls_.get(), {.one = true, .two = false}, until);
    if (over_http.ok() && *over_http == HttpVersion::kOne) return over_http;
    const auto over_grpc = Probe(grpc_, tls_.get(), {.one = false, .two = true}, until);
    if (over_grpc.ok() && *over_grpc == HttpVersion::kTwo) return over_grpc;
    // A server that is only reached over the route of the other transport cannot be used.
    if (over_http.ok() && over_grpc.ok()) {
      return absl::FailedPreconditionError(
          absl::StrCat(http_.ToString(), " speaks ", NameOf(*over_http), ", and ", grpc_.ToString(),
                       " speaks ", NameOf(*over_grpc),
                       ": the proxy variables of the environment select the wrong route for ",
                       "each transport"));
    }
    if (over_http.ok()) return over_grpc.status();
    if (over_grpc.ok()) return over_http.status();
    return EitherFailure(over_http.status(), over_grpc.status());
  }

  const Route& RouteOf(HttpVersion version) const {
    return version == HttpVersion::kOne ? http_ : grpc_;
  }

  // A failure of a call names the proxy that the call went through.
  absl::Status Named(const absl::Status& status) {
    if (!(absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
          absl::IsPermissionDenied(status) || absl::IsInternal(status) ||
          absl::IsFailedPrecondition(status))) {
      return status;
    }
    MutexLock lock(mutex_);
    const std::optional<Proxy>& proxy = RouteOf(version_).proxy;
    if (client_ == nullptr || !proxy.has_value() ||
        absl::StrContains(status.message(), proxy->ToString())) {
      return status;
    }
    return {status.code(), absl::StrCat(status.message(), " (through ", proxy->ToString(), ")")};
  }

  Shared NewClient(HttpVersion version) const {
    const ClientTls* const tls = options_.tls.has_value() ? &*options_.tls : nullptr;
    if (version == HttpVersion::kOne) {
      return NewHttpFleetClient(http_, tls_.get(), key_, options_.limits);
    }
    if (options_.transport == Transport::kGrpcAdapter) {
      return NewGrpcAdapterFleetClient(grpc_, tls, options_.limits);
    }
    return NewGrpcFleetClient(grpc_, tls, key_, options_.limits);
  }

  // The client to use in place of `refused`, whose server lacks a call: null if there is none.
  Shared Adapter(const Shared& refused) {
    MutexLock lock(mutex_);
    if (client_ != refused) return client_;  // another thread has replaced it
    if (options_.transport != Transport::kAuto || version_ != HttpVersion::kTwo || proven_) {
      return nullptr;
    }
    const ClientTls* const tls = options_.tls.has_value() ? &*options_.tls : nullptr;
    client_ = NewGrpcAdapterFleetClient(grpc_, tls, options_.limits);
    proven_ = true;
    Announce(absl::StrCat(options_.server, " takes gRPC through the grpc-adapter only"));
    return client_;
  }

  void Note(bool answered) {
    MutexLock lock(mutex_);
    proven_ = proven_ || answered;
    doubtful_ = !answered;
  }

  void Announce(const std::string& event) const {
    if (options_.transport == Transport::kAuto && options_.on_event) options_.on_event(event);
  }

  const Options options_;
  const Route http_;
  const Route grpc_;
  const std::unique_ptr<const TlsClient> tls_;
  const NodeKey& key_;
  Mutex mutex_;
  Shared client_ ABSL_GUARDED_BY(mutex_);  // null until a probe found a server
  HttpVersion version_ ABSL_GUARDED_BY(mutex_) = HttpVersion::kOne;
  bool proven_ ABSL_GUARDED_BY(mutex_) = false;    // client_ is the right one for gRPC
  bool doubtful_ ABSL_GUARDED_BY(mutex_) = false;  // the server was unreachable
};

}  // namespace

absl::StatusOr<std::unique_ptr<Discovery>> Discovery::Create(Options options, const NodeKey& key) {
  FEDUMM_ASSIGN_OR_RETURN(const HostPort server, HostPort::Parse(options.server));
  std::unique_ptr<const TlsClient> tls;
  if (options.tls.has_value()) {
    FEDUMM_ASSIGN_OR_RETURN(tls, TlsClient::Create(*options.tls));
  }
  Route http = {.server = server, .proxy = std::nullopt};
  Route grpc = http;
  const Acceptable acceptable = AcceptableTo(options.transport);
  if (acceptable.one) {
    FEDUMM_ASSIGN_OR_RETURN(http, HttpRoute(server, tls != nullptr, options.environment));
  }
  if (acceptable.two) {
    FEDUMM_ASSIGN_OR_RETURN(grpc, GrpcRoute(server, options.environment));
  }
  return std::make_unique<DiscoveringClient>(std::move(options), std::move(http), std::move(grpc),
                                             std::move(tls), key);
}

}  // namespace fedumm::transport
