// The table of a run's settings.
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "fedumm/mod.h"
#include "fedumm/model/client.h"
#include "fedumm/model/world.h"
#include "fedumm/strategies.h"
#include "programs/run_config.h"

namespace fedumm::programs {
namespace {

Setting ModsSetting() {
  return {.key = "mods",
          .default_value = "",
          .help = absl::StrCat("a list of what is put around every message of a client, the first "
                               "one outermost: ",
                               absl::StrJoin(ModNames(), ", "))};
}

std::vector<Setting> ProgramSettings() {
  return {
      {.key = "name", .default_value = "run", .help = "of the run and of its folder in runs/"},
      ModsSetting(),
      {.key = "federation.strategy",
       .default_value = StrategyNames().front(),
       .help = "how the server makes the next adapter from the clients' adapters",
       .choices = StrategyNames()},
      {.key = "federation.clients",
       .default_value = int64_t{4},
       .help = "clients that the examples are dealt to",
       .min = 1,
       .max = 10'000},
      {.key = "federation.rounds",
       .default_value = int64_t{40},
       .help = "rounds of training",
       .min = 1,
       .max = 1'000'000'000},
      {.key = "federation.fraction-train",
       .default_value = 1.0,
       .help = "share of the online nodes that trains in a round",
       .min = 0,
       .max = 1,
       .above_min = true},
      {.key = "federation.min-train-nodes",
       .default_value = int64_t{1},
       .help = "fewest nodes that train in a round",
       .min = 1,
       .max = 10'000},
      {.key = "federation.min-available-nodes",
       .default_value = int64_t{2},
       .help = "a round starts when so many nodes are online",
       .min = 1,
       .max = 10'000},
      {.key = "federation.wait-for-nodes",
       .default_value = 0.0,
       .help = "seconds to wait for them before the run fails; 0: as long as it takes",
       .min = 0},
      {.key = "federation.round-timeout",
       .default_value = 3600.0,
       .help = "seconds; the reply of a node that takes longer is not used in the round",
       .min = 0,
       .above_min = true},
      {.key = "federation.quorum",
       .default_value = int64_t{1},
       .help = "accepted replies that a round needs to change the model",
       .min = 1,
       .max = 10'000},
      {.key = "federation.fraction-evaluate",
       .default_value = 0.0,
       .help =
           "share of the online nodes that judge the adapter on held-out examples of their own; "
           "0: only the server evaluates",
       .min = 0,
       .max = 1},
      {.key = "evaluate.nodes-every",
       .default_value = int64_t{0},
       .help = "rounds between these evaluations by the nodes; 0: after the last round only",
       .min = 0},
      {.key = "evaluate.personalise-steps",
       .default_value = int64_t{0},
       .help = "each such node then trains so many steps on its own examples and is judged again; "
               "0: none",
       .min = 0,
       .max = 1'000'000},
      {.key = "evaluate.personalise-learning-rate",
       .default_value = 1e-3,
       .help = "of those steps",
       .min = 0,
       .above_min = true},
      {.key = "evaluate.every",
       .default_value = int64_t{5},
       .help = "rounds between evaluations on held-out examples by the server",
       .min = 1},
      {.key = "evaluate.stride",
       .default_value = int64_t{5},
       .help = "these use every n-th held-out example; the first and the last evaluation use all",
       .min = 1},
      {.key = "centralized.batch-factor",
       .default_value = int64_t{2},
       .help = "the centralized training of a comparison looks at as many examples as the "
               "federation, in batches so many times larger",
       .min = 1,
       .max = 10'000},
      {.key = "centralized.learning-rate",
       .default_value = 5e-3,
       .help = "of that training",
       .min = 0,
       .above_min = true},
  };
}

// Adds those settings whose keys are not there yet.
void Append(std::vector<Setting> more, std::vector<Setting>& table) {
  for (Setting& setting : more) {
    if (FindSetting(table, setting.key) == nullptr) table.push_back(std::move(setting));
  }
}

}  // namespace

absl::StatusOr<std::vector<Setting>> RunSettings(std::string_view world_kind) {
  std::vector<Setting> table = ProgramSettings();
  Append(StrategySettings(), table);
  FEDUMM_ASSIGN_OR_RETURN(std::vector<Setting> world, model::WorldSettings(world_kind));
  Append(std::move(world), table);
  Append(model::LoraSettings(), table);
  Append(model::TrainSettings(), table);
  Append(ModSettings(), table);
  return table;
}

absl::StatusOr<std::vector<Setting>> NodeTable(std::string_view world_kind) {
  FEDUMM_ASSIGN_OR_RETURN(std::vector<Setting> table, model::WorldSettings(world_kind));
  Append(model::LoraSettings(), table);
  Append(model::TrainSettings(), table);
  Append(ModSettings(), table);
  Append({ModsSetting()}, table);
  std::erase_if(table,
                [](const Setting& setting) { return absl::StartsWith(setting.key, "evaluate."); });
  return table;
}

}  // namespace fedumm::programs
