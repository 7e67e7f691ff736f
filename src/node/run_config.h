#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "fedumm/limits.h"
#include "fedumm/record.h"
#include "flwr/proto/run.pb.h"
#include "node/caller.h"

namespace fedumm {

// What the run's bundle says an app's config is unless the run says otherwise; asks the server for
// the bundle. INVALID_ARGUMENT or DATA_LOSS if that is not sound, else the error of the call.
absl::StatusOr<ConfigRecord> FabConfig(Caller& caller, uint64_t node_id,
                                       const flwr::proto::Run& run);

// `defaults`, overlaid with what the run was started with.
absl::StatusOr<ConfigRecord> RunConfig(ConfigRecord defaults, const flwr::proto::Run& run,
                                       const Limits& limits);

}  // namespace fedumm
