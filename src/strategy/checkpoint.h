// The state of a run after a whole round, in one file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/strategy.h"

namespace fedumm {

struct Checkpoint {
  uint64_t seed = 0;
  ArrayRecord arrays;
  ArrayRecord strategy_state;
  std::vector<RoundResult> rounds;  // with round 0 first, without a gap
};

// Magic, version, SHA-256 of the rest, then the records as a flwr.proto.RecordDict.
// RESOURCE_EXHAUSTED beyond 2 GiB, the limit of a protobuf message.
absl::StatusOr<std::string> EncodeCheckpoint(const Checkpoint& checkpoint);
// DATA_LOSS for anything but what EncodeCheckpoint writes.
absl::StatusOr<Checkpoint> DecodeCheckpoint(std::string_view bytes);
// The part of DecodeCheckpoint behind the checksum.
absl::StatusOr<Checkpoint> DecodeCheckpointBody(std::string_view body);

absl::Status WriteCheckpoint(const std::string& path, const Checkpoint& checkpoint);
// NOT_FOUND if there is no file.
absl::StatusOr<Checkpoint> ReadCheckpoint(const std::string& path);

}  // namespace fedumm
