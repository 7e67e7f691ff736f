#pragma once

#include <grpc/compression.h>

namespace fedumm::transport {

// The value of GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET with which a channel refuses
// compressed messages: one of a megabyte could unpack to a gigabyte, and what travels here (weights,
// signatures) does not compress.
inline constexpr int kNoCompression = 1 << GRPC_COMPRESS_NONE;

}  // namespace fedumm::transport
