#pragma once

#include <functional>

#include "absl/status/statusor.h"
#include "fedumm/context.h"
#include "fedumm/message.h"

namespace fedumm {

// The rest of the chain: further mods, then the app's handler.
using ClientAppCall = std::function<absl::StatusOr<RecordDict>(const Message&, Context&)>;

// Something around every message of a ClientApp: it may change the message before `next`, change
// the reply after it, or answer itself.
using Mod =
    std::function<absl::StatusOr<RecordDict>(const Message&, Context&, const ClientAppCall& next)>;

// Scales the update (reply arrays minus instruction arrays) so that its L2 norm over all float
// arrays is at most `clipping_norm` (> 0), also after rounding. The reply becomes an error if it
// has a float array that the instruction lacks or has in another form, a half-precision one, or an
// update that is not finite.
Mod FixedClippingMod(double clipping_norm);
// Logs the number of arrays, elements and bytes of each reply.
Mod ArraysSizeMod();

}  // namespace fedumm
