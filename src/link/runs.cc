#include "link/runs.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "link/random_id.h"
#include "wire/proto.h"

namespace fedumm::link {
namespace {

constexpr size_t kMostUnfinished = 100;  // a bundle is up to 10 MiB
constexpr size_t kMostFinished = 200;

constexpr const char* kPending = "pending";
constexpr const char* kStarting = "starting";
constexpr const char* kRunning = "running";
constexpr const char* kFinished = "finished";

}  // namespace

std::string IsoTime(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E6S+00:00", time, absl::UTCTimeZone());
}

absl::StatusOr<uint64_t> Runs::Add(const RunOptions& options, absl::Time now) {
  Entry entry;
  entry.fab = options.fab;
  entry.order = ++last_order_;
  flwr::proto::Run& run = entry.run;
  FEDUMM_RETURN_IF_ERROR(wire::ConfigToScalars(options.run_config, *run.mutable_override_config()));
  for (const auto& [key, value] : options.run_config) {
    // A Python node exits at a key that the config of its app does not have.
    if (options.fab == nullptr || options.fab->config().contains(key)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the app bundle's config has no key '", key, "' to override"));
  }
  uint64_t id = RandomId();
  while (runs_.contains(id)) id = RandomId();
  run.set_run_id(id);
  run.set_fab_id(options.fab == nullptr ? options.fab_id : options.fab->id());
  run.set_fab_version(options.fab == nullptr ? options.fab_version : options.fab->version());
  if (options.fab != nullptr) run.set_fab_hash(options.fab->hash());
  for (const auto& [other_id, other] : runs_) {
    if (entry.fab == nullptr || other.fab == nullptr) continue;
    if (other.fab->hash() == entry.fab->hash()) entry.fab = other.fab;  // one copy of a bundle
  }
  run.set_pending_at(IsoTime(now));
  run.mutable_status()->set_status(kPending);
  run.set_flwr_aid(std::string(kNobodyId));
  run.set_account_name(std::string(kNobody));
  run.set_federation("@none/default");
  run.set_primary_task_type("flwr-serverapp");
  run.set_primary_task_id(RandomId());
  // Nodes keep their Context by series: each run is its own, so that no state leaks between runs.
  run.set_series_id(id);
  runs_.emplace(id, std::move(entry));
  ForgetOldFinished();
  return id;
}

absl::StatusOr<uint64_t> Runs::Create(const RunOptions& options, absl::Time now) {
  FEDUMM_ASSIGN_OR_RETURN(const uint64_t id, Add(options, now));
  flwr::proto::Run& run = runs_.at(id).run;
  run.set_starting_at(run.pending_at());
  run.set_running_at(run.pending_at());
  run.mutable_status()->set_status(kRunning);
  return id;
}

absl::StatusOr<uint64_t> Runs::Submit(const RunOptions& options, absl::Time now) {
  const auto unfinished = std::count_if(runs_.begin(), runs_.end(), [](const auto& item) {
    return item.second.run.status().status() != kFinished;
  });
  if (static_cast<size_t>(unfinished) >= kMostUnfinished) {
    return absl::UnavailableError(absl::StrCat("no more unfinished runs than ", kMostUnfinished));
  }
  return Add(options, now);
}

std::optional<uint64_t> Runs::StartOldest(absl::Time now) {
  Entry* oldest = nullptr;
  for (auto& [id, entry] : runs_) {
    if (entry.run.status().status() != kPending) continue;
    if (oldest == nullptr || entry.order < oldest->order) oldest = &entry;
  }
  if (oldest == nullptr) return std::nullopt;
  oldest->run.mutable_status()->set_status(kStarting);
  oldest->run.set_starting_at(IsoTime(now));
  return oldest->run.run_id();
}

bool Runs::Activate(uint64_t run_id, absl::Time now) {
  const auto it = runs_.find(run_id);
  if (it == runs_.end() || it->second.run.status().status() != kStarting) return false;
  it->second.run.mutable_status()->set_status(kRunning);
  it->second.run.set_running_at(IsoTime(now));
  return true;
}

bool Runs::Requeue(uint64_t run_id) {
  const auto it = runs_.find(run_id);
  if (it == runs_.end() || it->second.run.status().status() != kStarting) return false;
  it->second.run.mutable_status()->set_status(kPending);
  it->second.run.clear_starting_at();
  return true;
}

bool Runs::Finish(uint64_t run_id, std::string_view sub_status, const std::string& details,
                  absl::Time now) {
  const auto it = runs_.find(run_id);
  if (it == runs_.end()) return false;
  flwr::proto::Run& run = it->second.run;
  const std::string& status = run.status().status();
  if (status == kFinished || (sub_status == kCompleted && status != kRunning)) return false;
  run.mutable_status()->set_status(kFinished);
  run.mutable_status()->set_sub_status(std::string(sub_status));
  run.mutable_status()->set_details(details);
  run.set_finished_at(IsoTime(now));
  it->second.fab.reset();
  return true;
}

absl::Status Runs::Check(uint64_t run_id) const {
  const auto it = runs_.find(run_id);
  if (it != runs_.end() && it->second.run.status().status() == kRunning) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat("the run is not running: ", run_id));
}

absl::StatusOr<flwr::proto::Run> Runs::Get(uint64_t run_id) const {
  FEDUMM_RETURN_IF_ERROR(Check(run_id));
  return runs_.at(run_id).run;
}

const flwr::proto::Run* Runs::Find(uint64_t run_id) const {
  const auto it = runs_.find(run_id);
  return it == runs_.end() ? nullptr : &it->second.run;
}

bool Runs::IsFinished(uint64_t run_id) const {
  const flwr::proto::Run* const run = Find(run_id);
  return run == nullptr || run->status().status() == kFinished;
}

std::shared_ptr<const Fab> Runs::GetFab(uint64_t run_id) const {
  const auto it = runs_.find(run_id);
  return it == runs_.end() ? nullptr : it->second.fab;
}

std::vector<uint64_t> Runs::Newest() const {
  std::vector<std::pair<uint64_t, uint64_t>> by_order;
  for (const auto& [id, entry] : runs_) by_order.emplace_back(entry.order, id);
  std::sort(by_order.rbegin(), by_order.rend());
  std::vector<uint64_t> ids;
  for (const auto& [order, id] : by_order) ids.push_back(id);
  return ids;
}

void Runs::ForgetOldFinished() {
  while (runs_.size() > kMostUnfinished + kMostFinished) {
    auto oldest = runs_.end();
    for (auto it = runs_.begin(); it != runs_.end(); ++it) {
      if (it->second.run.status().status() != kFinished) continue;
      if (oldest == runs_.end() || it->second.order < oldest->second.order) oldest = it;
    }
    if (oldest == runs_.end()) return;
    runs_.erase(oldest);
  }
}

}  // namespace fedumm::link
