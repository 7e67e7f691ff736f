#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/context.h"
#include "fedumm/message.h"
#include "fedumm/record.h"
#include "fedumm/settings.h"

namespace fedumm {

// The rest of the chain: further mods, then the app's handler.
using ClientAppCall = std::function<absl::StatusOr<RecordDict>(const Message&, Context&)>;

// Something around every message of a ClientApp: it may change the message before `next`, change
// the reply after it, or answer itself.
using Mod =
    std::function<absl::StatusOr<RecordDict>(const Message&, Context&, const ClientAppCall& next)>;

// Scales the update (reply arrays minus instruction arrays) so that its L2 norm over all float
// arrays is at most `clipping_norm` (> 0), also after rounding. The reply becomes an error if it
// has a float array that the instruction lacks or has in another shape or dtype, a half-precision
// one, or an update that is not finite.
Mod FixedClippingMod(double clipping_norm);
// Does the client's part of Flower's DifferentialPrivacyClientSideFixedClipping and
// DifferentialPrivacyClientSideAdaptiveClipping: if a training message's ConfigRecord has
// "clipping_norm", the update is clipped to it as by FixedClippingMod, and the reply's metrics say
// as "norm_bit" whether that scaled it (1) or not (0). INVALID_ARGUMENT for a norm that is not a
// positive number. Without the key nothing happens. NewLoraClient's apps have it already.
Mod MessageClippingMod();
// Logs the number of arrays, elements and bytes of each reply.
Mod ArraysSizeMod();

// The mods of these names, in their order, the first one outermost: "fixed-clipping"
// (FixedClippingMod with the setting "mod.clipping-norm"), "arrays-size". INVALID_ARGUMENT, naming
// it, for an unknown name, for a setting that the mod needs and that is missing or wrong, and for
// one that none of the mods would use.
absl::StatusOr<std::vector<Mod>> ModsFromNames(const std::vector<std::string>& names,
                                               const ConfigRecord& settings);
std::vector<std::string> ModNames();
// The settings that the mods of ModsFromNames take.
std::vector<Setting> ModSettings();

}  // namespace fedumm
