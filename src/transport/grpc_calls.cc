#include "transport/grpc_calls.h"

#include <string>

namespace fedumm::transport {
namespace {

std::string Metadatum(const grpc::CallbackServerContext& context, const char* key) {
  const auto it = context.client_metadata().find(key);
  return it == context.client_metadata().end() ? std::string()
                                               : std::string(it->second.data(), it->second.size());
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return grpc::Status::OK;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kInvalidArgument:
      return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
    default:
      return {grpc::StatusCode::UNAVAILABLE, std::string(status.message())};
  }
}

link::Caller CallerOf(const grpc::CallbackServerContext& context) {
  return {.public_key = Metadatum(context, "flwr-public-key-bin"),
          .timestamp = Metadatum(context, "flwr-timestamp"),
          .signature = Metadatum(context, "flwr-signature-bin")};
}

}  // namespace fedumm::transport
