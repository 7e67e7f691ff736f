#include "fedumm/model/partition.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "model/data/numpy_random.h"

namespace fedumm::model {
namespace {

using Shards = std::vector<std::vector<int64_t>>;

// The ascending positions of each label, labels in byte order.
std::vector<std::vector<int64_t>> GroupByLabel(std::span<const std::string> labels) {
  std::map<std::string, std::vector<int64_t>> groups;
  for (size_t i = 0; i < labels.size(); ++i) {
    groups[labels[i]].push_back(static_cast<int64_t>(i));
  }
  std::vector<std::vector<int64_t>> result;
  for (auto& [label, indices] : groups) result.push_back(std::move(indices));
  return result;
}

int64_t SmallestSize(const Shards& shards) {
  return static_cast<int64_t>(
      std::ranges::min_element(shards, {}, [](const auto& shard) { return shard.size(); })->size());
}

absl::Status TooSmall(const PartitionOptions& options, const Shards& shards) {
  std::vector<size_t> sizes;
  for (const auto& shard : shards) sizes.push_back(shard.size());
  return absl::FailedPreconditionError(absl::StrCat(
      "no draw gave every client ", options.min_size, " examples; the last sizes were ",
      absl::StrJoin(sizes, " "), " (alpha ", options.alpha, ")"));
}

// Gives indices[0 .. counts[0]) to client 0, the next counts[1] to client 1, …
void Deal(const std::vector<int64_t>& indices, const std::vector<int64_t>& counts, Shards& shards) {
  auto next = indices.begin();
  for (size_t client = 0; client < shards.size(); ++client) {
    shards[client].insert(shards[client].end(), next, next + counts[client]);
    next += counts[client];
  }
}

// Gamma(alpha) variates as logarithms, by Marsaglia and Tsang's method for alpha + 1: a small alpha
// cannot underflow to 0.
double LogGamma(double alpha, Random& random) {
  const double d = alpha + 1 - 1.0 / 3.0;
  const double c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = random.Normal();
    const double v = std::pow(1 + c * x, 3);
    if (v <= 0) continue;
    const double u = 1 - random.Uniform();
    if (std::log(u) < 0.5 * x * x + d * (1 - v + std::log(v))) {
      return std::log(d * v) + std::log(1 - random.Uniform()) / alpha;
    }
  }
}

std::vector<double> DirichletShares(int64_t num_clients, double alpha, Random& random) {
  std::vector<double> shares(static_cast<size_t>(num_clients));
  for (double& share : shares) share = LogGamma(alpha, random);
  const double largest = *std::ranges::max_element(shares);
  for (double& share : shares) share = std::exp(share - largest);
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share /= sum;
  return shares;
}

absl::StatusOr<Shards> Dirichlet(const PartitionOptions& options,
                                 std::span<const std::string> labels) {
  const std::vector<std::vector<int64_t>> groups = GroupByLabel(labels);
  Shards shards;
  for (int64_t draw = 0; draw <= options.max_redraws; ++draw) {
    Random random(options.seed, {static_cast<uint64_t>(draw)});
    shards.assign(static_cast<size_t>(options.num_clients), {});
    for (std::vector<int64_t> indices : groups) {
      const std::vector<double> shares =
          DirichletShares(options.num_clients, options.alpha, random);
      random.Shuffle(indices);
      Deal(indices, UnbiasedCounts(shares, static_cast<int64_t>(indices.size()), random.Uniform()),
           shards);
    }
    if (SmallestSize(shards) < options.min_size) continue;
    for (auto& shard : shards) std::ranges::sort(shard);
    return shards;
  }
  return TooSmall(options, shards);
}

absl::StatusOr<Shards> Iid(const PartitionOptions& options, int64_t n) {
  std::vector<int64_t> indices(static_cast<size_t>(n));
  std::iota(indices.begin(), indices.end(), 0);
  Random random(options.seed);
  random.Shuffle(indices);
  Shards shards(static_cast<size_t>(options.num_clients));
  for (size_t i = 0; i < indices.size(); ++i) shards[i % shards.size()].push_back(indices[i]);
  for (auto& shard : shards) std::ranges::sort(shard);
  if (SmallestSize(shards) < options.min_size) return TooSmall(options, shards);
  return shards;
}

// numpy.split at floor(cumsum(shares)[:-1] * n).
std::vector<int64_t> FloorCounts(std::span<const double> shares, int64_t n) {
  return UnbiasedCounts(shares, n, /*u=*/0);
}

Shards NvflareCompat(const PartitionOptions& options, std::span<const std::string> labels) {
  Shards shards(static_cast<size_t>(options.num_clients));
  if (options.alpha <= 0) {
    for (size_t i = 0; i < labels.size(); ++i) {
      shards[i % shards.size()].push_back(static_cast<int64_t>(i));
    }
    return shards;
  }
  std::vector<std::vector<int64_t>> groups = GroupByLabel(labels);
  const std::vector<double> alpha(shards.size(), options.alpha);
  NumpyRandom random(options.seed);
  std::vector<std::vector<double>> shares;
  for (size_t i = 0; i < groups.size(); ++i) shares.push_back(random.Dirichlet(alpha));
  for (size_t i = 0; i < groups.size(); ++i) {
    random.Shuffle(groups[i]);
    Deal(groups[i], FloorCounts(shares[i], static_cast<int64_t>(groups[i].size())), shards);
  }
  for (auto& shard : shards) std::ranges::sort(shard);
  return shards;
}

// Takes the share of clients that hold more than the average.
absl::Status Balance(const Shards& shards, double average, std::vector<double>& shares) {
  for (size_t client = 0; client < shards.size(); ++client) {
    if (static_cast<double>(shards[client].size()) > average) shares[client] = 0;
  }
  double sum = 0;
  for (const double share : shares) sum += share;
  if (!(sum > 0)) {
    return absl::FailedPreconditionError(
        "self-balancing left no client with a share; raise alpha or turn it off");
  }
  for (double& share : shares) share /= sum;
  return absl::OkStatus();
}

absl::StatusOr<Shards> FlowerCompat(const PartitionOptions& options,
                                    std::span<const std::string> labels) {
  const std::vector<std::vector<int64_t>> groups = GroupByLabel(labels);
  const std::vector<double> alpha(static_cast<size_t>(options.num_clients), options.alpha);
  const double average =
      static_cast<double>(labels.size()) / static_cast<double>(options.num_clients);
  NumpyRandom random(options.seed);
  Shards shards;
  for (int64_t draw = 0; draw <= options.max_redraws; ++draw) {
    shards.assign(alpha.size(), {});
    for (const std::vector<int64_t>& indices : groups) {
      std::vector<double> shares = random.Dirichlet(alpha);
      if (options.self_balancing) FEDUMM_RETURN_IF_ERROR(Balance(shards, average, shares));
      Deal(indices, FloorCounts(shares, static_cast<int64_t>(indices.size())), shards);
    }
    if (SmallestSize(shards) < options.min_size) continue;
    if (options.shuffle) {
      for (auto& shard : shards) random.Shuffle(shard);
    }
    return shards;
  }
  return TooSmall(options, shards);
}

absl::Status Check(const PartitionOptions& options, size_t num_labels) {
  if (options.num_clients < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_clients must be positive: ", options.num_clients));
  }
  if (options.num_clients > static_cast<int64_t>(num_labels)) {
    return absl::InvalidArgumentError(
        absl::StrCat("more clients than examples: ", options.num_clients, " and ", num_labels));
  }
  const bool any_alpha =
      options.scheme == PartitionScheme::kIid || options.scheme == PartitionScheme::kNvflareCompat;
  if (!std::isfinite(options.alpha) || (options.alpha <= 0 && !any_alpha)) {
    return absl::InvalidArgumentError(absl::StrCat("alpha must be positive: ", options.alpha));
  }
  if (options.min_size < 0 || options.max_redraws < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("min_size and max_redraws must not be negative: ", options.min_size, ", ",
                     options.max_redraws));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<int64_t> UnbiasedCounts(std::span<const double> shares, int64_t n, double u) {
  std::vector<int64_t> counts;
  double sum = 0;  // can end a little above 1, hence the clamp
  int64_t begin = 0;
  for (const double share : shares) {
    sum += share;
    const bool last = counts.size() + 1 == shares.size();
    const int64_t cut =
        last ? n : static_cast<int64_t>(std::floor(sum * static_cast<double>(n) + u));
    const int64_t end = std::clamp(cut, begin, n);
    counts.push_back(end - begin);
    begin = end;
  }
  return counts;
}

absl::StatusOr<Shards> Partition(const PartitionOptions& options,
                                 std::span<const std::string> labels) {
  FEDUMM_RETURN_IF_ERROR(Check(options, labels.size()));
  switch (options.scheme) {
    case PartitionScheme::kDirichlet:
      return Dirichlet(options, labels);
    case PartitionScheme::kIid:
      return Iid(options, static_cast<int64_t>(labels.size()));
    case PartitionScheme::kNvflareCompat:
      return NvflareCompat(options, labels);
    case PartitionScheme::kFlowerCompat:
      return FlowerCompat(options, labels);
  }
  return absl::InvalidArgumentError("unknown partition scheme");
}

}  // namespace fedumm::model
