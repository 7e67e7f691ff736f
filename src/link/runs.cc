#include "link/runs.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "link/random_id.h"
#include "wire/proto.h"

namespace fedumm::link {

absl::StatusOr<uint64_t> Runs::Create(const RunOptions& options, absl::Time now) {
  flwr::proto::Run run;
  FEDUMM_RETURN_IF_ERROR(wire::ConfigToScalars(options.run_config, *run.mutable_override_config()));
  uint64_t id = RandomId();
  while (runs_.contains(id)) id = RandomId();
  run.set_run_id(id);
  run.set_fab_id(options.fab_id);
  run.set_fab_version(options.fab_version);
  const std::string started =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E6S+00:00", now, absl::UTCTimeZone());
  run.set_pending_at(started);
  run.set_starting_at(started);
  run.set_running_at(started);
  run.mutable_status()->set_status("running");
  run.set_federation("@none/default");
  run.set_primary_task_type("flwr-serverapp");
  // Nodes keep their Context by series: each run is its own, so that no state leaks between runs.
  run.set_series_id(id);
  runs_.emplace(id, std::move(run));
  return id;
}

absl::Status Runs::Check(uint64_t run_id) const {
  if (runs_.contains(run_id)) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat("the run is not running: ", run_id));
}

absl::StatusOr<flwr::proto::Run> Runs::Get(uint64_t run_id) const {
  FEDUMM_RETURN_IF_ERROR(Check(run_id));
  return runs_.at(run_id);
}

}  // namespace fedumm::link
