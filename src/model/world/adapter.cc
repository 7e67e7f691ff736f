#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "fedumm/model/world.h"
#include "model/world/shares.h"

namespace fedumm::model {
namespace {

// Names hold letters, digits, "_", "-" and "."; anything more is a regular expression, which PEFT
// tells by its type.
bool IsListOfNames(const std::string& targets) {
  return targets != "all-linear" && std::all_of(targets.begin(), targets.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' ||
                  c == '.' || c == ',';
         });
}

}  // namespace

std::vector<Setting> LoraSettings() {
  return {
      {.key = "lora.r",
       .default_value = int64_t{6},
       .help = "rank of the adapter",
       .min = 1,
       .max = 65'536},
      {.key = "lora.lora-alpha",
       .default_value = 12.0,
       .help = "an update counts lora-alpha / r times",
       .min = 0,
       .above_min = true},
      {.key = "lora.lora-dropout",
       .default_value = 0.0,
       .help = "share of an adapter's inputs that a training step leaves out",
       .min = 0,
       .max = 1},
      {.key = "lora.use-rslora",
       .default_value = false,
       .help = "divide lora-alpha by the square root of r instead of by r"},
      {.key = "lora.target-modules",
       .default_value =
           R"(model\.(layers\.\d+\.(self_attn|mlp)\..*|dit\.model\.(caption_projection|layers\.\d+\.(attn\d|feed_forward))\..*))",
       .help = "a list of module names, 'all-linear', or a regular expression over whole module "
               "paths (the default: the linears of the decoder and the DiT)"},
  };
}

absl::StatusOr<std::unique_ptr<LoraAdapter>> NewAdapter(World& world,
                                                        const ConfigRecord& settings) {
  LoraConfig lora{.r = static_cast<int64_t>(NumberOr(settings, "lora.r", 0)),
                  .lora_alpha = NumberOr(settings, "lora.lora-alpha", 0),
                  .lora_dropout = NumberOr(settings, "lora.lora-dropout", 0),
                  .use_rslora = NumberOr(settings, "lora.use-rslora", 0) != 0};
  const std::string targets = TextOr(settings, "lora.target-modules", "");
  if (IsListOfNames(targets)) {
    lora.target_modules.names = absl::StrSplit(targets, ',', absl::SkipEmpty());
  } else {
    lora.target_modules.pattern = targets;
  }
  absl::StatusOr<std::unique_ptr<LoraAdapter>> adapter =
      LoraAdapter::Attach(world.Linears(), std::move(lora), SeedOf(settings));
  if (adapter.ok()) return adapter;
  return absl::Status(adapter.status().code(),
                      absl::StrCat("[lora] of the settings: ", adapter.status().message()));
}

}  // namespace fedumm::model
