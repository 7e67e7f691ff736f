#include "transport/grpc_calls.h"

#include <string>

#include "absl/strings/str_replace.h"

namespace fedumm::transport {
namespace {

std::string Metadatum(const grpc::CallbackServerContext& context, const char* key) {
  const auto it = context.client_metadata().find(key);
  return it == context.client_metadata().end() ? std::string()
                                               : std::string(it->second.data(), it->second.size());
}

// "ipv4:127.0.0.1:9092" and "ipv6:%5B::1%5D:9092", without what is not for people.
std::string AddressOf(const grpc::CallbackServerContext& context) {
  std::string address = context.peer();
  if (const size_t colon = address.find(':'); colon != std::string::npos) {
    address.erase(0, colon + 1);
  }
  return absl::StrReplaceAll(address, {{"%5B", "["}, {"%5D", "]"}});
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
          .signature = Metadatum(context, "flwr-signature-bin"),
          .address = AddressOf(context)};
}

}  // namespace fedumm::transport
