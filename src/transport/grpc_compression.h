#pragma once

#include <grpc/compression.h>
#include <grpc/grpc.h>

namespace fedumm::transport {

// Makes a channel or a server (`set` takes the name and value of a channel argument) refuse
// compressed messages: one of a megabyte could unpack to a gigabyte, and what travels here
// (weights, signatures) does not compress.
template <typename Set>
void RefuseCompression(Set set) {
  set(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1 << GRPC_COMPRESS_NONE);
  // A call that is refused may have been unpacked before: leave out what unpacks.
  set(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
}

}  // namespace fedumm::transport
