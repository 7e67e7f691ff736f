// How a world deals its examples to clients by the settings under [data].
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/record.h"
#include "fedumm/settings.h"

namespace fedumm::model {

// data.partitioner, data.alpha, data.min-size.
std::vector<Setting> ShareSettings();

// For each of `num_partitions` clients the indices into `labels` that it gets. Errors as of
// Partition.
absl::StatusOr<std::vector<std::vector<int64_t>>> Shares(const ConfigRecord& settings,
                                                         std::span<const std::string> labels,
                                                         int64_t num_partitions);

// The run's "seed"; 0 if there is none.
uint64_t SeedOf(const ConfigRecord& settings);

// INVALID_ARGUMENT unless 0 <= partition_id < num_partitions.
absl::Status CheckPartition(int64_t partition_id, int64_t num_partitions);

// (label, how often `share` has it) for each label there is, in alphabetical order.
std::vector<std::pair<std::string, int64_t>> CountLabels(std::span<const std::string> labels,
                                                         std::span<const int64_t> share);

}  // namespace fedumm::model
