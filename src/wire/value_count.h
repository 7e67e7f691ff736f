#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/zero_copy_stream.h>

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"

namespace fedumm::wire {

// Bounds the memory that Protobuf's parser will take: it makes up to 150 bytes out of each field
// and list element, which may have two bytes on the wire. To be called before a message of more
// than a few MiB from a peer is parsed. INVALID_ARGUMENT if `bytes` holds more than `max_values` of
// them, at any depth, or is malformed. Texts and bytes values count as one, whatever their length.
absl::Status CheckValueCount(const google::protobuf::Descriptor& type, std::string_view bytes,
                             int64_t max_values);
absl::Status CheckValueCount(const google::protobuf::Descriptor& type,
                             google::protobuf::io::ZeroCopyInputStream& stream, int64_t max_values);

}  // namespace fedumm::wire
