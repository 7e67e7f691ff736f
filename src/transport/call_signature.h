#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "node/node_key.h"

namespace fedumm::transport {

// Proves with every call that a node holds its key now.
struct CallSignature {
  std::string timestamp;  // ISO 8601, UTC with zone and microseconds
  std::string signature;  // of the timestamp, DER
};

absl::StatusOr<CallSignature> SignCall(const NodeKey& key);

}  // namespace fedumm::transport
