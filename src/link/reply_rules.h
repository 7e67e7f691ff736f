#pragma once

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "fedumm/message.h"

namespace fedumm::link {

// Whether `reply`, which its node signed for, may answer `instruction`. INVALID_ARGUMENT with the
// reason if not. `now` is wall time.
absl::Status CheckReply(const Metadata& reply, const Metadata& instruction, absl::Time now);

}  // namespace fedumm::link
