#include "transport/object_buffers.h"

#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/slice.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace fedumm::transport {
namespace {

constexpr size_t kCopied = 4096;  // smaller objects are cheaper to copy than to refer to

grpc::Slice Refer(const wire::ObjectBytes& bytes) {
  // gRPC only reads what it sends.
  return grpc::Slice(
      const_cast<char*>(bytes->data()), bytes->size(),
      [](void* reference) { delete static_cast<wire::ObjectBytes*>(reference); },
      new wire::ObjectBytes(bytes));
}

}  // namespace

grpc::ByteBuffer FrameBuffer(std::string_view head, std::span<const wire::Object> objects) {
  std::vector<grpc::Slice> slices;
  std::string small(head);
  const auto flush = [&] {
    if (!small.empty()) slices.emplace_back(small.data(), small.size());
    small.clear();
  };
  for (const wire::Object& object : objects) {
    small += wire::ObjectPrefix(object.id, object.bytes->size());
    if (object.bytes->size() < kCopied) {
      small += *object.bytes;
    } else {
      flush();
      slices.push_back(Refer(object.bytes));
    }
  }
  flush();
  return grpc::ByteBuffer(slices.data(), slices.size());
}

absl::StatusOr<wire::ReceivedFrame> ParseFrameBuffer(grpc::ByteBuffer& buffer,
                                                     const Limits& limits) {
  if (!buffer.Valid()) return wire::ReceivedFrame();
  grpc::ProtoBufferReader reader(&buffer);
  if (!reader.status().ok()) {
    return absl::InvalidArgumentError("the frame of objects is compressed in an unknown way");
  }
  return wire::ParseObjectFrame(reader, buffer.Length(), limits);
}

}  // namespace fedumm::transport
