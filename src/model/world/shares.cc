#include "model/world/shares.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "fedumm/model/partition.h"

namespace fedumm::model {
namespace {

constexpr uint64_t kKeepBackStream = 0x7e57;  // apart from the streams of training

absl::StatusOr<PartitionScheme> SchemeOf(const std::string& name) {
  if (name == "dirichlet") return PartitionScheme::kDirichlet;
  if (name == "iid") return PartitionScheme::kIid;
  if (name == "nvflare") return PartitionScheme::kNvflareCompat;
  if (name == "flower") return PartitionScheme::kFlowerCompat;
  return absl::InvalidArgumentError(absl::StrCat("unknown partitioner '", name, "'"));
}

// Moves that part of `train`, at least one example if there are two, out of it.
std::vector<int64_t> KeepBack(double part, uint64_t seed, int64_t partition_id,
                              std::vector<int64_t>& train) {
  if (train.size() < 2) return {};
  const size_t wanted = static_cast<size_t>(std::lround(part * static_cast<double>(train.size())));
  const size_t count = std::clamp(wanted, size_t{1}, train.size() - 1);
  std::vector<int64_t> order = train;
  Random random(seed, {static_cast<uint64_t>(partition_id), kKeepBackStream});
  random.Shuffle(order);
  order.resize(count);
  std::sort(order.begin(), order.end());
  std::erase_if(train,
                [&](int64_t i) { return std::binary_search(order.begin(), order.end(), i); });
  return order;
}

}  // namespace

std::vector<Setting> ShareSettings() {
  return {
      {.key = "data.partitioner",
       .default_value = "dirichlet",
       .help = "how examples are dealt to clients: unbiased Dirichlet, evenly, or as NVFlare's and "
               "Flower's code deals them",
       .choices = {"dirichlet", "iid", "nvflare", "flower"}},
      {.key = "data.alpha",
       .default_value = 0.5,
       .help = "of the Dirichlet distribution: the smaller, the fewer classes a client sees; 0, "
               "for nvflare only, deals one by one in turn",
       .min = 0},
      {.key = "data.min-size",
       .default_value = int64_t{10},
       .help = "examples of each task that every client gets at least",
       .min = 0},
      {.key = "data.client-test-share",
       .default_value = 0.0,
       .help = "part of each client's examples that it does not train on and is judged on; 0: "
               "clients are judged on the held-out examples of all",
       .min = 0,
       .max = 0.9},
  };
}

absl::StatusOr<ClientShare> ShareOf(const ConfigRecord& settings,
                                    std::span<const std::string> labels, int64_t partition_id,
                                    int64_t num_partitions) {
  FEDUMM_ASSIGN_OR_RETURN(const PartitionScheme scheme,
                          SchemeOf(TextOr(settings, "data.partitioner", "")));
  FEDUMM_ASSIGN_OR_RETURN(
      auto shares,
      Partition({.scheme = scheme,
                 .num_clients = num_partitions,
                 .alpha = NumberOr(settings, "data.alpha", 0),
                 .seed = SeedOf(settings),
                 .min_size = static_cast<int64_t>(NumberOr(settings, "data.min-size", 0)),
                 .max_redraws = 100},
                labels));
  ClientShare share = {.train = std::move(shares[static_cast<size_t>(partition_id)])};
  const double part = NumberOr(settings, "data.client-test-share", 0);
  if (part > 0) share.test = KeepBack(part, SeedOf(settings), partition_id, share.train);
  return share;
}

uint64_t SeedOf(const ConfigRecord& settings) {
  const ConfigValue* value = settings.Find("seed");
  if (value == nullptr) return 0;
  if (const auto* integer = std::get_if<int64_t>(value)) return static_cast<uint64_t>(*integer);
  const auto* natural = std::get_if<uint64_t>(value);
  return natural == nullptr ? 0 : *natural;
}

absl::Status CheckPartition(int64_t partition_id, int64_t num_partitions) {
  if (partition_id >= 0 && partition_id < num_partitions) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("partition-id must be from 0 to num-partitions - 1, here ", num_partitions - 1,
                   ": ", partition_id));
}

std::vector<std::pair<std::string, int64_t>> CountLabels(std::span<const std::string> labels,
                                                         std::span<const int64_t> share) {
  std::map<std::string, int64_t> counts;
  for (const std::string& label : labels) counts.emplace(label, 0);
  for (const int64_t i : share) ++counts[labels[static_cast<size_t>(i)]];
  return {counts.begin(), counts.end()};
}

}  // namespace fedumm::model
