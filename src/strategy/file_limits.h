#pragma once

#include <cstdint>
#include <limits>

#include "fedumm/limits.h"

namespace fedumm {

// The files of a checkpoint are our own, and so may hold more than a message from a peer.
inline Limits FileLimits() {
  Limits limits;
  limits.max_record_items = 100'000'000;
  limits.max_list_values = 100'000'000;
  limits.max_object_bytes = std::numeric_limits<int32_t>::max();
  return limits;
}

}  // namespace fedumm
