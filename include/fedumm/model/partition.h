// How the examples of one dataset are dealt to clients.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace fedumm::model {

enum class PartitionScheme {
  kDirichlet,      // label skew; every client expects the same number of examples
  kIid,            // no skew, sizes differ by one at most
  kNvflareCompat,  // the index lists that NVFlare's FedUMM example makes
  kFlowerCompat,   // those of flwr-datasets' DirichletPartitioner
};

struct PartitionOptions {
  PartitionScheme scheme = PartitionScheme::kDirichlet;
  int64_t num_clients = 8;
  double alpha =
      0.5;  // the smaller, the fewer labels a client sees; kNvflareCompat: <= 0 deals round-robin
  uint64_t seed = 42;
  // Fewest examples of a client, reached by drawing again; flwr-datasets' own default is 10.
  // kNvflareCompat knows no minimum and can leave a client without examples.
  int64_t min_size = 1;
  int64_t max_redraws = 10;
  bool self_balancing = false;  // kFlowerCompat only: full clients get nothing more
  bool shuffle = true;          // kFlowerCompat only: the order within a client
};

// For each client the indices into `labels` that it gets: every index once; ascending, except for
// kFlowerCompat. INVALID_ARGUMENT for bad options; FAILED_PRECONDITION, with the last sizes, if no
// draw reached min_size.
absl::StatusOr<std::vector<std::vector<int64_t>>> Partition(const PartitionOptions& options,
                                                            std::span<const std::string> labels);

// Cuts n examples by `shares` (which sum to 1) and one uniform `u` in [0, 1): each count is n·share
// rounded up or down, and n·share in the mean over u. Rounding every cut down instead would hand
// all remainders to the last client.
std::vector<int64_t> UnbiasedCounts(std::span<const double> shares, int64_t n, double u);

}  // namespace fedumm::model
