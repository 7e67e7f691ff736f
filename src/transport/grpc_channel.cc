#include "transport/grpc_channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "transport/grpc_compression.h"

namespace fedumm::transport {
namespace {

// Channel arguments of gRPC's own proxy code, which no public header declares.
constexpr char kConnectServer[] = "grpc.http_connect_server";
constexpr char kConnectHeaders[] = "grpc.http_connect_headers";

grpc::ChannelArguments ChannelArguments(const Route& route, const Limits& limits) {
  constexpr int64_t kEnvelope = 1 << 20;  // what a response holds beside one object
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(
      std::min<int64_t>(limits.max_object_bytes + kEnvelope, std::numeric_limits<int>::max())));
  arguments.SetMaxSendMessageSize(-1);
  // Reconnect soon after the server is back; the node's own back-off spreads the calls.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // Nodes of one process do not share connections.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  RefuseCompression([&](const char* name, int value) { arguments.SetInt(name, value); });
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // transport/proxy.h has the rule
  if (route.proxy.has_value()) {
    arguments.SetString(kConnectServer, route.server.ToString());
    if (!route.proxy->authorization.empty()) {
      arguments.SetString(kConnectHeaders,
                          absl::StrCat("Proxy-Authorization:", route.proxy->authorization));
    }
    // The name that TLS checks, and the :authority of the calls.
    arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, route.server.ToString());
  }
  return arguments;
}

std::shared_ptr<grpc::ChannelCredentials> Credentials(const ClientTls* tls) {
  if (tls == nullptr) return grpc::InsecureChannelCredentials();
  return grpc::SslCredentials({.pem_root_certs = tls->root_certificates,
                               .pem_private_key = tls->private_key,
                               .pem_cert_chain = tls->certificate_chain});
}

}  // namespace

std::shared_ptr<grpc::Channel> NewGrpcChannel(const Route& route, const ClientTls* tls,
                                              const Limits& limits) {
  const HostPort& peer = route.proxy.has_value() ? route.proxy->address : route.server;
  return grpc::CreateCustomChannel(peer.ToString(), Credentials(tls),
                                   ChannelArguments(route, limits));
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  const std::string& text = status.error_message();
  if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED) {
    return absl::UnimplementedError(absl::StrCat(
        "the server lacks a call that fedumm ", FEDUMM_VERSION,
        " makes: it is older than Flower 1.23, or it serves no gRPC Fleet API: ", text));
  }
  // gRPC distinguishes them in its text only.
  const bool tls_failed =
      absl::StrContains(text, "Ssl handshake failed") || absl::StrContains(text, "certificate");
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE && tls_failed) {
    return absl::FailedPreconditionError(absl::StrCat("the TLS handshake failed: ", text));
  }
  return {static_cast<absl::StatusCode>(status.error_code()), text};
}

}  // namespace fedumm::transport
