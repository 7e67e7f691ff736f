#include "programs/results.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "fedumm/model/world.h"

namespace fedumm::programs {
namespace {

double Now() { return absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()); }

// The figure of that key in what MetricsOverNodes gives, if it is there.
void AddOverClients(const MetricRecord& metrics, const std::string& key, const std::string& task,
                    std::map<std::string, OverClients>& figures) {
  if (!metrics.contains(key + "-std")) return;
  figures[task] = {.mean = NumberOr(metrics, key + "-mean", 0),
                   .worst = NumberOr(metrics, key + "-min", 0),
                   .best = NumberOr(metrics, key + "-max", 0),
                   .spread = NumberOr(metrics, key + "-std", 0)};
}

RoundData RoundDataOf(const RoundResult& result, const std::vector<TaskData>& tasks) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  RoundData round{.number = result.number,
                  .seconds = absl::ToDoubleSeconds(result.duration),
                  .updated = result.updated,
                  .train_loss = NumberOr(result.train_metrics, "train-loss", nan)};
  for (const TaskData& task : tasks) {
    const double loss = NumberOr(result.train_metrics, task.name + "-loss", nan);
    if (std::isfinite(loss)) round.losses[task.name] = loss;
    const double accuracy = NumberOr(result.server_metrics, task.metric, nan);
    if (std::isfinite(accuracy)) round.accuracies[task.name] = accuracy;
    AddOverClients(result.evaluate_metrics, task.metric, task.name, round.on_clients);
    AddOverClients(result.evaluate_metrics, task.metric + "-personalised", task.name,
                   round.personalised);
  }
  for (const NodeOutcome& node : result.nodes) {
    const double partition = NumberOr(node.metrics, "partition-id", -1);
    round.nodes.push_back(
        {.node_id = node.node_id,
         .accepted = node.accepted,
         .reason = node.reason,
         .bytes_down = node.traffic.bytes_down,
         .bytes_up = node.traffic.bytes_up,
         .num_examples = NumberOr(node.metrics, "num-examples", 0),
         .partition_id = partition >= 0 && partition < 1e6 ? static_cast<int64_t>(partition) : -1});
    ++round.num_nodes;
    round.num_accepted += node.accepted ? 1 : 0;
    round.bytes_down += node.traffic.bytes_down;
    round.bytes_up += node.traffic.bytes_up;
  }
  return round;
}

// The rounds in metrics.jsonl, the last one of each number. A line that was cut short by a crash is
// skipped.
std::vector<RoundData> RoundsIn(const std::string& path, const std::vector<TaskData>& tasks) {
  std::vector<RoundData> rounds;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    absl::StatusOr<RoundData> round = RoundFromLine(line, tasks);
    if (!round.ok()) continue;
    while (!rounds.empty() && rounds.back().number >= round->number) rounds.pop_back();
    rounds.push_back(*std::move(round));
  }
  return rounds;
}

// Removes what an earlier run left under these names.
void RemoveEarlierResults(const std::string& run_dir) {
  std::error_code ignored;
  for (const char* name : {"checkpoint", "checkpoint.rounds", "settings.json", "run.json",
                           "summary.json", "report.html", "adapter/adapter_model.safetensors",
                           "adapter/adapter_config.json", "adapter"}) {
    std::filesystem::remove(run_dir + "/" + name, ignored);  // a folder only if it is empty
  }
  std::filesystem::remove_all(run_dir + "/" + kOptimizersFolder, ignored);
  std::vector<std::filesystem::path> events;
  for (std::filesystem::directory_iterator it(run_dir, ignored), end; it != end;
       it.increment(ignored)) {
    if (absl::StartsWith(it->path().filename().string(), "events.out.tfevents.")) {
      events.push_back(it->path());
    }
  }
  for (const std::filesystem::path& path : events) std::filesystem::remove(path, ignored);
}

// Whether a run may go on with another value: the bits that are to come do not depend on it, or it
// is what a longer run changes.
bool MayChange(const std::string& key) {
  static constexpr std::array<const char*, 6> kFree = {"name",
                                                       "federation.rounds",
                                                       "federation.round-timeout",
                                                       "federation.wait-for-nodes",
                                                       "federation.quorum",
                                                       "federation.min-available-nodes"};
  return absl::StartsWith(key, "evaluate.") || model::IsLocalSetting(key) ||
         std::find(kFree.begin(), kFree.end(), key) != kFree.end();
}

// The settings of a run, in a file that --resume compares.
std::string SettingsPath(const std::string& run_dir) { return run_dir + "/settings.json"; }

absl::Status WriteSettings(const std::string& run_dir, const RunData& data) {
  nlohmann::ordered_json settings = nlohmann::ordered_json::object();
  for (const auto& [key, value] : data.settings) settings[key] = value;
  return WriteFileAtomically(SettingsPath(run_dir), settings.dump(2) + "\n");
}

// INVALID_ARGUMENT, naming them, if settings are others than those of the run that began. A run
// without the file is of an earlier version: all is accepted.
absl::Status CheckSettings(const std::string& run_dir, const RunData& data) {
  const std::string path = SettingsPath(run_dir);
  if (!std::filesystem::exists(path)) return absl::OkStatus();
  FEDUMM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  const nlohmann::json before = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!before.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is damaged: it is no JSON object"));
  }
  std::vector<std::string> changed;
  for (const auto& [key, value] : data.settings) {
    const auto it = before.find(key);
    if (it == before.end() || !it->is_string() || MayChange(key)) continue;
    const std::string was = it->get<std::string>();
    if (was != value) changed.push_back(absl::StrCat(key, " was ", was, " and is now ", value));
  }
  if (changed.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "cannot resume ", run_dir, " with other settings: ", absl::StrJoin(changed, "; "),
      ". Give the old values, or start anew without --resume"));
}

}  // namespace

Results::Results(std::string run_dir, RunData data, TensorBoardWriter events, std::ofstream metrics)
    : run_dir_(std::move(run_dir)),
      data_(std::move(data)),
      events_(std::move(events)),
      metrics_(std::move(metrics)) {}

absl::StatusOr<Results> Results::Open(const std::string& run_dir, RunData data, bool resume) {
  const std::string path = run_dir + "/metrics.jsonl";
  if (resume) {
    FEDUMM_RETURN_IF_ERROR(CheckSettings(run_dir, data));
    for (RoundData& round : RoundsIn(path, data.tasks)) AddRound(std::move(round), data);
  } else {
    RemoveEarlierResults(run_dir);
  }
  FEDUMM_RETURN_IF_ERROR(WriteSettings(run_dir, data));
  FEDUMM_ASSIGN_OR_RETURN(TensorBoardWriter events, TensorBoardWriter::Create(run_dir, Now()));
  std::ofstream metrics(path, resume ? std::ios::app : std::ios::trunc);
  if (!metrics) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot write ", path, ": ", std::strerror(errno)));
  }
  return Results(run_dir, std::move(data), std::move(events), std::move(metrics));
}

absl::Status Results::AddEvents(const RoundData& round) {
  const auto scalar = [&](const std::string& tag, double value) -> absl::Status {
    if (!std::isfinite(value)) return absl::OkStatus();
    return events_.AddScalar(tag, round.number, static_cast<float>(value), Now());
  };
  FEDUMM_RETURN_IF_ERROR(scalar("train-loss", round.train_loss));
  for (const auto& [task, loss] : round.losses) {
    FEDUMM_RETURN_IF_ERROR(scalar(task + "-loss", loss));
  }
  for (const TaskData& task : data_.tasks) {
    const auto accuracy = round.accuracies.find(task.name);
    if (accuracy == round.accuracies.end()) continue;
    FEDUMM_RETURN_IF_ERROR(scalar(task.metric, accuracy->second));
  }
  return absl::OkStatus();
}

absl::Status Results::AddLine(const RoundData& round) {
  metrics_.clear();  // a disk that was full may have space again
  errno = 0;
  metrics_ << RoundLine(round, data_.tasks, Now()) << std::endl;
  if (metrics_) return absl::OkStatus();
  return absl::ErrnoToStatus(errno == 0 ? EIO : errno, "cannot write");
}

const RoundData& Results::Add(const RoundResult& result) {
  last_ = RoundDataOf(result, data_.tasks);
  Report("metrics.jsonl", AddLine(last_));
  Report("TensorBoard events", AddEvents(last_));
  AddRound(last_, data_);
  return last_;
}

void Results::Finish() {
  Report("run.json", WriteFileAtomically(run_dir_ + "/run.json", ToJson(data_)));
}

void Results::Report(const std::string& what, const absl::Status& status) {
  if (status.ok()) return;
  const bool known = std::any_of(failed_.begin(), failed_.end(),
                                 [&](const auto& failure) { return failure.first == what; });
  if (known) return;
  Log()->warn("{} of {}: {}; the run goes on", what, run_dir_, std::string(status.message()));
  failed_.emplace_back(what, status.message());
}

absl::Status Results::problem() const {
  if (failed_.empty()) return absl::OkStatus();
  std::string all;
  for (const auto& [what, error] : failed_) {
    absl::StrAppend(&all, all.empty() ? "" : "; ", what, ": ", error);
  }
  return absl::InternalError(absl::StrCat("the adapter is in ", run_dir_,
                                          "/adapter, but not all of the run could be "
                                          "recorded: ",
                                          all));
}

}  // namespace fedumm::programs
