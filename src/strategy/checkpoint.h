// The state of a run after a whole round: one file, replaced after every round, whose size does not
// depend on the number of rounds. The results of the rounds are in a second file; see RoundLog.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/record.h"
#include "strategy/round_log.h"

namespace fedumm {

struct Checkpoint {
  uint64_t seed = 0;
  int64_t last_round = 0;    // that was played whole; 0 before the first
  int64_t num_updated = 0;   // rounds that changed the model
  int64_t num_accepted = 0;  // train replies, of all rounds
  ArrayRecord arrays;
  ArrayRecord strategy_state;
  RoundLog::Mark log;  // as it was after that round
};

// Magic, version, SHA-256 of the rest, then the length of a flwr.proto.RecordDict (8 bytes, little
// endian), that record, which names the arrays, and the elements of the arrays one after another.
// There is no bound but that of the file system.
std::string EncodeCheckpoint(const Checkpoint& checkpoint);
// DATA_LOSS for anything but what EncodeCheckpoint writes.
absl::StatusOr<Checkpoint> DecodeCheckpoint(std::string_view bytes);
// What DecodeCheckpoint does after the checksum.
absl::StatusOr<Checkpoint> DecodeCheckpointBody(std::string_view body);

// Needs no memory for a copy of the arrays.
absl::Status WriteCheckpoint(const std::string& path, const Checkpoint& checkpoint);
// NOT_FOUND if there is no file. Each array is read into its own buffer.
absl::StatusOr<Checkpoint> ReadCheckpoint(const std::string& path);

// The path of the log of a checkpoint's rounds.
std::string RoundLogPath(const std::string& checkpoint_path);

}  // namespace fedumm
