#include "transport/grpc_listener.h"

#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/host_port.h"
#include "base/status_macros.h"
#include "transport/certificates.h"
#include "transport/grpc_compression.h"

namespace fedumm::transport {
namespace {

// Bytes of a message besides an object, or of an object tree.
constexpr int64_t kMessageOverhead = int64_t{8} << 20;
// For all calls together, before their callers are checked.
constexpr size_t kReceiveBufferBytes = size_t{2} << 30;
constexpr int kMaxCallsOfOneConnection = 64;

std::shared_ptr<grpc::ServerCredentials> Credentials(const std::optional<ServerTls>& tls) {
  if (!tls.has_value()) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options(
      tls->client_ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                             : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = tls->client_ca;
  options.pem_key_cert_pairs.push_back({tls->private_key, tls->certificate_chain});
  return grpc::SslServerCredentials(options);
}

}  // namespace

void GrpcListener::Shutdown() const {
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
}

absl::StatusOr<GrpcListener> StartGrpcListener(const GrpcListenerOptions& options,
                                               const std::vector<grpc::Service*>& services) {
  FEDUMM_ASSIGN_OR_RETURN(const HostPort address, HostPort::ParseListener(options.address));
  if (options.tls.has_value()) FEDUMM_RETURN_IF_ERROR(CheckServerTls(*options.tls));
  const int max_message_bytes = static_cast<int>(std::min<int64_t>(
      options.limits.max_object_bytes + kMessageOverhead, std::numeric_limits<int>::max()));
  GrpcListener listener;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address.ToString(), Credentials(options.tls), &listener.port);
  builder.SetMaxReceiveMessageSize(max_message_bytes);
  builder.SetMaxSendMessageSize(max_message_bytes);
  grpc::ResourceQuota quota("fedumm");
  quota.Resize(kReceiveBufferBytes);
  builder.SetResourceQuota(quota);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxCallsOfOneConnection);
  RefuseCompression([&](const char* name, int value) { builder.AddChannelArgument(name, value); });
  // The window grows to the size of the arriving message. With BDP probes gRPC makes it larger, and
  // keeps a read buffer of that size, megabytes, for each connection as long as it lasts.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  // Without it two servers on one port would share its calls at random.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 210'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  for (grpc::Service* service : services) builder.RegisterService(service);
  listener.server = builder.BuildAndStart();
  if (listener.server == nullptr || listener.port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options.address));
  }
  return listener;
}

}  // namespace fedumm::transport
