#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "fedumm/limits.h"
#include "wire/object.h"
#include "wire/object_frame.h"

namespace fedumm::transport {

// A frame as gRPC sends it: `head`, which is the start of the message, then the objects, whose
// bytes are not copied.
grpc::ByteBuffer FrameBuffer(std::string_view head, std::span<const wire::Object> objects);

absl::StatusOr<wire::ReceivedFrame> ParseFrameBuffer(grpc::ByteBuffer& buffer,
                                                     const Limits& limits);

}  // namespace fedumm::transport
