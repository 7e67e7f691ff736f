#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <cstdint>

#include "absl/status/status.h"
#include "link/node_auth.h"

namespace fedumm::transport {

inline constexpr int64_t kGrpcFrameBytes = 5;  // before each message

// What a Flower node understands. It takes any other code for a reason to leave, so trouble of any
// other kind asks it to try again.
grpc::Status ToGrpcStatus(const absl::Status& status);

// Who the metadata of a call say is calling.
link::Caller CallerOf(const grpc::CallbackServerContext& context);

}  // namespace fedumm::transport
