#include "model/world/shares.h"

#include <map>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fedumm/model/partition.h"

namespace fedumm::model {
namespace {

absl::StatusOr<PartitionScheme> SchemeOf(const std::string& name) {
  if (name == "dirichlet") return PartitionScheme::kDirichlet;
  if (name == "iid") return PartitionScheme::kIid;
  if (name == "nvflare") return PartitionScheme::kNvflareCompat;
  if (name == "flower") return PartitionScheme::kFlowerCompat;
  return absl::InvalidArgumentError(absl::StrCat("unknown partitioner '", name, "'"));
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
       .help = "of the Dirichlet distribution: the smaller, the fewer classes a client sees",
       .min = 0,
       .above_min = true},
      {.key = "data.min-size",
       .default_value = int64_t{10},
       .help = "examples of each task that every client gets at least",
       .min = 0},
  };
}

absl::StatusOr<std::vector<std::vector<int64_t>>> Shares(const ConfigRecord& settings,
                                                         std::span<const std::string> labels,
                                                         int64_t num_partitions) {
  FEDUMM_ASSIGN_OR_RETURN(const PartitionScheme scheme,
                          SchemeOf(TextOr(settings, "data.partitioner", "")));
  return Partition({.scheme = scheme,
                    .num_clients = num_partitions,
                    .alpha = NumberOr(settings, "data.alpha", 0),
                    .seed = SeedOf(settings),
                    .min_size = static_cast<int64_t>(NumberOr(settings, "data.min-size", 0)),
                    .max_redraws = 100},
                   labels);
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
