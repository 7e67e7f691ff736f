#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fedumm/fab.h"
#include "fedumm/run.h"
#include "flwr/proto/run.pb.h"

namespace fedumm::link {

// How a run ended: Flower's sub-statuses.
inline constexpr std::string_view kCompleted = "completed";
inline constexpr std::string_view kFailed = "failed";
inline constexpr std::string_view kStopped = "stopped";

// Flower's name of the owner where there are no accounts.
inline constexpr std::string_view kNobodyId = "<id:none>";
inline constexpr std::string_view kNobody = "none";

// As Flower prints times.
std::string IsoTime(absl::Time time);

// Runs: pending -> starting -> running -> finished:{completed, failed, stopped}. A starting run may
// go back to pending. To nodes only running ones exist; finished ones stay listed, up to a number.
// Times are wall time. Not thread-safe.
class Runs {
 public:
  // A run of this process, running at once. INVALID_ARGUMENT if the run's config holds a list, or a
  // key that the config of its bundle has not.
  absl::StatusOr<uint64_t> Create(const RunOptions& options, absl::Time now);
  // A run whose ServerApp is in `options.fab`, pending. INVALID_ARGUMENT likewise, UNAVAILABLE if
  // too many runs wait or run already.
  absl::StatusOr<uint64_t> Submit(const RunOptions& options, absl::Time now);

  // Starts the run that has been pending longest, if there is one.
  std::optional<uint64_t> StartOldest(absl::Time now);
  // From starting. False, and nothing happens, from any other state.
  bool Activate(uint64_t run_id, absl::Time now);
  bool Requeue(uint64_t run_id);
  // False, and nothing happens, if the run is unknown or finished, or shall be completed without
  // running.
  bool Finish(uint64_t run_id, std::string_view sub_status, const std::string& details,
              absl::Time now);

  // PERMISSION_DENIED, which a node takes as the end of the run, for a run that is not running.
  absl::Status Check(uint64_t run_id) const;
  absl::StatusOr<flwr::proto::Run> Get(uint64_t run_id) const;

  // Whatever its state; null if there is no such run.
  const flwr::proto::Run* Find(uint64_t run_id) const;
  bool IsFinished(uint64_t run_id) const;  // an unknown run is
  // Null for a run without one, and once the run is finished.
  std::shared_ptr<const Fab> GetFab(uint64_t run_id) const;
  std::vector<uint64_t> Newest() const;  // all of them

 private:
  struct Entry {
    flwr::proto::Run run;
    std::shared_ptr<const Fab> fab;
    uint64_t order = 0;  // of creation
  };

  absl::StatusOr<uint64_t> Add(const RunOptions& options, absl::Time now);
  void ForgetOldFinished();

  std::map<uint64_t, Entry> runs_;
  uint64_t last_order_ = 0;
};

}  // namespace fedumm::link
