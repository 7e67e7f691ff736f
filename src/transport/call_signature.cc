#include "transport/call_signature.h"

#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/status_macros.h"

namespace fedumm::transport {

absl::StatusOr<CallSignature> SignCall(const NodeKey& key) {
  std::string timestamp =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E6S+00:00", absl::Now(), absl::UTCTimeZone());
  FEDUMM_ASSIGN_OR_RETURN(std::string signature, key.Sign(timestamp));
  return CallSignature{std::move(timestamp), std::move(signature)};
}

}  // namespace fedumm::transport
