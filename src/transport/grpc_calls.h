#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <cstdint>

#include "absl/status/status.h"
#include "link/node_auth.h"

namespace fedumm::transport {

inline constexpr int64_t kGrpcFrameBytes = 5;  // before each message

// The status as a Flower node understands it. A node exits on any other code, so all other failures
// ask it to try again.
grpc::Status ToGrpcStatus(const absl::Status& status);

// The caller that the metadata of a call name.
link::Caller CallerOf(const grpc::CallbackServerContext& context);

}  // namespace fedumm::transport
