#pragma once

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "fedumm/message.h"

namespace fedumm::link {

// Whether `reply`, which its node signed for, may answer `instruction`. INVALID_ARGUMENT with the
// reason if not. `now` is wall time.
absl::Status CheckReply(const Metadata& reply, const Metadata& instruction, absl::Time now);

// Whether a message of an application outside this process may be an instruction. INVALID_ARGUMENT
// with the reason if not. `now` is wall time.
absl::Status CheckInstruction(const Metadata& instruction, absl::Time now);

// In place of a reply that will not come. Without a message id.
Message ErrorReply(const Metadata& instruction, Error error, absl::Time now);

// What the sender of an instruction hears if the server refused the reply.
Error RefusedReply(const absl::Status& reason);

}  // namespace fedumm::link
