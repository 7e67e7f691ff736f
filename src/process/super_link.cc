#include "fedumm/super_link.h"

#include <algorithm>
#include <map>
#include <string>
#include <thread>
#include <utility>

#include "base/status_macros.h"
#include "link/admission.h"
#include "link/control.h"
#include "link/fleet.h"
#include "link/link_state.h"
#include "link/run_grid.h"
#include "link/runtime.h"
#include "transport/adapter_server.h"
#include "transport/app_http.h"
#include "transport/fleet_http.h"
#include "transport/grpc_server.h"
#include "transport/http_routes.h"
#include "transport/http_server.h"
#include "transport/objects_http.h"
#include "wire/protobuf_log.h"

namespace fedumm {

namespace {

// Security must be chosen, and must hold on every transport.
absl::Status CheckOptions(const SuperLinkOptions& options) {
  if (options.fleet_api_address.empty() && options.http_address.empty() &&
      options.grpc_adapter_address.empty()) {
    return absl::InvalidArgumentError("all transports are off");
  }
  if (!options.tls.has_value() && !options.insecure) {
    return absl::FailedPreconditionError(
        "there is no certificate: set `tls`, or `insecure` to serve in plaintext");
  }
  if (options.tls.has_value() && options.insecure) {
    return absl::InvalidArgumentError("`tls` and `insecure` exclude each other");
  }
  if (!options.enable_supernode_auth) return absl::OkStatus();
  if (!options.tls.has_value()) {
    return absl::FailedPreconditionError("`enable_supernode_auth` needs `tls`");
  }
  if (!options.grpc_adapter_address.empty()) {
    return absl::InvalidArgumentError(
        "`enable_supernode_auth` excludes the grpc-adapter, which carries no keys");
  }
  return absl::OkStatus();
}

}  // namespace

class SuperLink::Impl {
 public:
  explicit Impl(const SuperLinkOptions& options)
      : state({.lease = options.lease,
               .limits = options.limits,
               .replies = {.max_bytes = options.limits.max_incoming_reply_bytes},
               .known_keys_only = options.enable_supernode_auth,
               .on_event = options.on_event,
               .clock = options.clock}),
        admission(state),
        fleet(state),
        control(state),
        runtime(state) {}
  ~Impl() {
    Stop();
    if (timers.joinable()) timers.join();
  }
  void Stop() {
    fleet.Stop();
    if (server != nullptr) server->Shutdown();
    if (adapter != nullptr) adapter->Shutdown();
    if (http != nullptr) http->Shutdown();
  }

  link::LinkState state;
  link::Admission admission;
  link::Fleet fleet;
  link::Control control;
  link::Runtime runtime;
  std::unique_ptr<transport::GrpcServer> server;
  std::unique_ptr<transport::AdapterServer> adapter;
  std::unique_ptr<transport::HttpServer> http;
  std::thread timers;
};

absl::StatusOr<std::unique_ptr<SuperLink>> SuperLink::Start(SuperLinkOptions options) {
  FEDUMM_RETURN_IF_ERROR(CheckOptions(options));
  wire::RedirectProtobufLog();
  auto impl = std::make_unique<Impl>(options);
  if (!options.allowed_keys.empty()) {
    FEDUMM_RETURN_IF_ERROR(impl->admission.AllowKeys(options.allowed_keys));
  }
  if (!options.fleet_api_address.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(impl->server, transport::GrpcServer::Start(
                                              impl->fleet, {.address = options.fleet_api_address,
                                                            .tls = options.tls,
                                                            .max_pull_hold = options.max_pull_hold,
                                                            .limits = options.limits}));
  }
  if (!options.grpc_adapter_address.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(
        impl->adapter,
        transport::AdapterServer::Start(impl->fleet, {.address = options.grpc_adapter_address,
                                                      .tls = options.tls,
                                                      .limits = options.limits}));
  }
  if (!options.http_address.empty()) {
    std::map<std::string, transport::HttpHandler> handlers;
    handlers[transport::kFleetPath] = transport::NewFleetHandler(
        impl->fleet, {.max_pull_hold = options.max_pull_hold,
                      .enable_supernode_auth = options.enable_supernode_auth});
    handlers[transport::kObjectsPath] = transport::NewObjectsHandler(impl->fleet, options.limits);
    if (options.host_apps) {
      const transport::AppHttpOptions apps{.allow_remote_control = options.allow_remote_control};
      handlers[transport::kControlPath] = transport::NewControlHandler(impl->control, apps);
      handlers[transport::kRuntimePath] = transport::NewRuntimeHandler(impl->runtime, apps);
    }
    transport::HttpServer::Options http{.address = options.http_address,
                                        .tls = options.tls,
                                        .max_body_bytes = options.limits.max_call_bytes};
    http.max_body_of = transport::FleetBodyLimit(impl->fleet, options.limits.max_call_bytes);
    if (options.host_apps) {
      http.max_body_of = [of_nodes = std::move(http.max_body_of),
                          of_apps =
                              transport::AppBodyLimit(impl->runtime, options.limits.max_call_bytes,
                                                      options.limits.max_object_bytes)](
                             const transport::HttpRequest& head) {
        return std::max(of_nodes(head), of_apps(head));
      };
    }
    FEDUMM_ASSIGN_OR_RETURN(
        impl->http, transport::HttpServer::Start(std::move(http),
                                                 transport::RouteByPrefix(std::move(handlers))));
  }
  impl->timers = std::thread([&fleet = impl->fleet] { fleet.RunTimers(); });
  return std::unique_ptr<SuperLink>(new SuperLink(std::move(impl)));
}

SuperLink::SuperLink(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SuperLink::~SuperLink() = default;

int SuperLink::fleet_port() const { return impl_->server == nullptr ? 0 : impl_->server->port(); }

int SuperLink::http_port() const { return impl_->http == nullptr ? 0 : impl_->http->port(); }

int SuperLink::grpc_adapter_port() const {
  return impl_->adapter == nullptr ? 0 : impl_->adapter->port();
}

absl::StatusOr<std::unique_ptr<Grid>> SuperLink::CreateRun(RunOptions options) {
  link::LinkState& state = impl_->state;
  MutexLock lock(state.mu);
  if (state.stopping) return absl::CancelledError("the server is stopping");
  FEDUMM_ASSIGN_OR_RETURN(const uint64_t run_id, state.runs.Create(options, state.options.clock()));
  return std::make_unique<link::RunGrid>(state, run_id);
}

std::vector<NodeStatus> SuperLink::Nodes() const {
  MutexLock lock(impl_->state.mu);
  return impl_->state.nodes.List(impl_->state.options.timer());
}

absl::Status SuperLink::AllowKeys(const std::vector<std::string>& public_keys) {
  return impl_->admission.AllowKeys(public_keys);
}

absl::StatusOr<uint64_t> SuperLink::RegisterNode(const std::string& public_key) {
  return impl_->admission.RegisterNode({.public_key = public_key});
}

absl::Status SuperLink::UnregisterNode(uint64_t node_id) {
  return impl_->admission.UnregisterNode(node_id);
}

void SuperLink::Stop() { impl_->Stop(); }

}  // namespace fedumm
