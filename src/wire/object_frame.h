// Frames of many objects (fedumm.proto.ObjectFrame and PushObjectsRequest), written and read in the
// place of Protobuf's own code, which would copy every object twice more.
#pragma once

#include <google/protobuf/io/zero_copy_stream.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/limits.h"
#include "wire/object.h"

namespace fedumm::wire {

// A frame holds objects of this many bytes, or a single larger one.
inline constexpr int64_t kFrameBytes = int64_t{1} << 20;
inline constexpr int64_t kObjectOverhead = 80;  // at most, of what stands before an object's bytes

// How many of `objects` the next frame takes, of `max_bytes`; none if there are none.
size_t NumInFrame(std::span<const Object> objects, int64_t max_bytes = kFrameBytes);

// What stands before the bytes of an object in a frame.
std::string ObjectPrefix(std::string_view id, size_t num_bytes);

// A frame in one piece. `head`: its other fields, as Protobuf writes them.
std::string FormatFrame(std::string_view head, std::span<const Object> objects);

struct ReceivedObject {
  std::string id;
  std::string bytes;  // not hashed yet
};
struct ReceivedFrame {
  std::vector<ReceivedObject> objects;
  // Of a PushObjectsRequest; 0 and empty in an ObjectFrame.
  uint64_t node_id = 0;
  uint64_t run_id = 0;
  std::string session_id;
};

// Reads a whole frame of `num_bytes`. INVALID_ARGUMENT if it is malformed or an object is beyond
// `limits`. Reserves no more than the frame has.
absl::StatusOr<ReceivedFrame> ParseObjectFrame(google::protobuf::io::ZeroCopyInputStream& stream,
                                               size_t num_bytes, const Limits& limits);
absl::StatusOr<ReceivedFrame> ParseObjectFrame(std::string_view bytes, const Limits& limits);

}  // namespace fedumm::wire
