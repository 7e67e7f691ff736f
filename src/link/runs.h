#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fedumm/super_link.h"
#include "flwr/proto/run.pb.h"

namespace fedumm::link {

// The runs that are running. A finished run is forgotten: nodes hear the same of it as of one that
// never was. Not thread-safe.
class Runs {
 public:
  // INVALID_ARGUMENT if the run's config holds a list. `now` is wall time.
  absl::StatusOr<uint64_t> Create(const RunOptions& options, absl::Time now);
  void Finish(uint64_t run_id) { runs_.erase(run_id); }

  // PERMISSION_DENIED, which a node takes as the end of the run, for a run that is not running.
  absl::Status Check(uint64_t run_id) const;
  absl::StatusOr<flwr::proto::Run> Get(uint64_t run_id) const;

 private:
  std::map<uint64_t, flwr::proto::Run> runs_;
};

}  // namespace fedumm::link
