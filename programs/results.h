// The one writer of what a run leaves in its folder.
#pragma once

#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/strategy.h"
#include "programs/report/run_data.h"
#include "programs/report/tensorboard.h"

namespace fedumm::programs {

// Of a run's folder: the optimizers that clients of the same process keep between rounds.
inline constexpr char kOptimizersFolder[] = "optimizers";

// Collects the rounds of a run and writes metrics.jsonl and TensorBoard events while it goes on,
// run.json at its end. If a file cannot be written, a warning is logged at once, the run continues
// with the other files, and problem() returns the error at the end. Not thread-safe.
class Results {
 public:
  // `data` has what is known before the first round. With `resume` the rounds that metrics.jsonl
  // has are taken over and the file is appended to; otherwise what an earlier run left in the
  // folder is removed, so that nothing of it looks like this run's result. INVALID_ARGUMENT if the
  // folder cannot be written, or if the run to resume had other settings (settings.json).
  static absl::StatusOr<Results> Open(const std::string& run_dir, RunData data, bool resume);

  const RoundData& Add(const RoundResult& result);
  // Writes run.json.
  void Finish();

  RunData& data() { return data_; }
  // Notes that `what` failed: warns the first time, and keeps it for problem().
  void Report(const std::string& what, const absl::Status& status);
  // OK, or INTERNAL with everything that failed.
  absl::Status problem() const;

 private:
  Results(std::string run_dir, RunData data, TensorBoardWriter events, std::ofstream metrics);
  absl::Status AddEvents(const RoundData& round);
  absl::Status AddLine(const RoundData& round);

  std::string run_dir_;
  RunData data_;
  TensorBoardWriter events_;
  std::ofstream metrics_;
  RoundData last_;                                           // with all nodes
  std::vector<std::pair<std::string, std::string>> failed_;  // what, first error
};

}  // namespace fedumm::programs
