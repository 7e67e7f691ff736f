#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/model/train.h"

namespace fedumm::model {

// The optimizer states that one partition keeps between rounds, as files of a folder, so that a run
// that was killed goes on with the same bits. The states of the last two rounds are there: a round
// that was cut short starts again from the one before it.
class OptimizerFiles {
 public:
  OptimizerFiles(std::string folder, int64_t partition, int64_t num_partitions);

  // The newest state of a round before `round`; a fresh one if there is none. Removes those of
  // `round` and later ones: that round is to run again. INVALID_ARGUMENT for a damaged file.
  absl::StatusOr<AdamWState> LoadBefore(int64_t round) const;
  // What the optimizer has after `round`.
  absl::Status Save(int64_t round, const AdamWState& state) const;
  // The next state is a fresh one.
  void Discard() const;

 private:
  // Returns what remains, by round.
  std::map<int64_t, std::filesystem::path> RemoveFrom(int64_t round) const;

  std::string folder_;
  std::string prefix_;  // of the files' names
};

}  // namespace fedumm::model
