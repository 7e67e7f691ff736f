// How a world deals its examples to clients by the settings under [data].
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/record.h"
#include "fedumm/settings.h"

namespace fedumm::model {

// data.partitioner, data.alpha, data.min-size, data.client-test-share.
std::vector<Setting> ShareSettings();

// What one client gets: indices into the labels, ascending unless the partitioner shuffles.
struct ClientShare {
  std::vector<int64_t> train;
  // What it keeps back to be judged on; unset if data.client-test-share is 0. Drawn at random from
  // the client's own examples, so that their distribution is the client's. A client with one
  // example keeps none back.
  std::optional<std::vector<int64_t>> test;
};
// The share of client `partition_id` of `num_partitions`. Equal settings give equal shares. Errors
// as of Partition.
absl::StatusOr<ClientShare> ShareOf(const ConfigRecord& settings,
                                    std::span<const std::string> labels, int64_t partition_id,
                                    int64_t num_partitions);

// The run's "seed"; 0 if there is none.
uint64_t SeedOf(const ConfigRecord& settings);

// INVALID_ARGUMENT unless 0 <= partition_id < num_partitions.
absl::Status CheckPartition(int64_t partition_id, int64_t num_partitions);

// (label, how often `share` has it) for each label there is, in alphabetical order.
std::vector<std::pair<std::string, int64_t>> CountLabels(std::span<const std::string> labels,
                                                         std::span<const int64_t> share);

}  // namespace fedumm::model
