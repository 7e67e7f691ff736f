#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "node/node_key.h"

namespace fedumm::transport {

// What a node shows with every call: that it holds the key, and holds it now.
struct CallSignature {
  std::string timestamp;  // ISO 8601, UTC with zone and microseconds
  std::string signature;  // of the timestamp, DER
};

absl::StatusOr<CallSignature> SignCall(const NodeKey& key);

}  // namespace fedumm::transport
