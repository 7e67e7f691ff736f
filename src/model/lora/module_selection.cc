// Which modules a LoraConfig selects, with which rank and scale: the rules of PEFT's
// check_target_module_exists.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "fedumm/model/peft_config.h"
#include "model/lora/exact_config.h"
#include "model/lora/pattern.h"

namespace fedumm::model {
namespace {

constexpr char kOutputHead[] = "lm_head";

absl::StatusOr<bool> MatchesPattern(const std::string& pattern, const std::string& path) {
  FEDUMM_ASSIGN_OR_RETURN(const Pattern compiled, Pattern::Compile(pattern));
  return compiled.Matches(path);
}

// Whether `name`, of a list of names, is that of the module at `path`.
bool Names(const std::string& name, const std::string& path) {
  return path == name || absl::EndsWith(path, absl::StrCat(".", name));
}

absl::StatusOr<bool> Selects(const ModuleSelector& selector, const std::string& path) {
  if (selector.pattern.has_value()) return MatchesPattern(*selector.pattern, path);
  return std::any_of(selector.names.begin(), selector.names.end(),
                     [&](const std::string& name) { return Names(name, path); });
}

// The number of the layer that `path` lies in: the first component that is a number, with something
// before (what layers_pattern says) and after it.
absl::StatusOr<std::optional<int64_t>> LayerOf(const LoraConfig& config, const std::string& path) {
  const std::vector<std::string> parts = absl::StrSplit(path, '.');
  std::string before(parts[0]);
  for (size_t i = 1; i + 1 < parts.size(); absl::StrAppend(&before, ".", parts[i++])) {
    int64_t layer = 0;
    if (!absl::SimpleAtoi(parts[i], &layer) || !std::isdigit(parts[i][0])) continue;
    if (config.layers_pattern.empty()) {
      if (i >= 2) return layer;
      continue;
    }
    for (const std::string& pattern : config.layers_pattern) {
      FEDUMM_ASSIGN_OR_RETURN(const bool found,
                              MatchesPattern(absl::StrCat("(?:|.*\\.)(?:", pattern, ")"), before));
      if (found) return layer;
    }
  }
  return std::nullopt;
}

absl::StatusOr<bool> IsTarget(const LoraConfig& config, const std::string& path) {
  FEDUMM_ASSIGN_OR_RETURN(const bool excluded, Selects(config.exclude_modules, path));
  if (excluded) return false;
  if (config.target_modules.pattern.has_value() &&
      absl::EqualsIgnoreCase(*config.target_modules.pattern, "all-linear")) {
    return path != kOutputHead;
  }
  FEDUMM_ASSIGN_OR_RETURN(const bool targeted, Selects(config.target_modules, path));
  if (!targeted || config.layers_to_transform.empty()) return targeted;
  const auto& names = config.target_modules.names;
  // A module that is named exactly passes layers_to_transform.
  if (std::find(names.begin(), names.end(), path) != names.end()) return true;
  FEDUMM_ASSIGN_OR_RETURN(const std::optional<int64_t> layer, LayerOf(config, path));
  const auto& layers = config.layers_to_transform;
  return layer.has_value() && std::find(layers.begin(), layers.end(), *layer) != layers.end();
}

template <typename Value>
absl::StatusOr<Value> ValueFor(const std::vector<std::pair<std::string, Value>>& patterns,
                               const std::string& path, Value otherwise) {
  for (const auto& [pattern, value] : patterns) {
    FEDUMM_ASSIGN_OR_RETURN(const bool found,
                            MatchesPattern(absl::StrCat("(?:.*\\.)?(?:", pattern, ")"), path));
    if (found) return value;
  }
  return otherwise;
}

}  // namespace

std::string ToLayout(const std::string& path, ModuleLayout layout) {
  if (layout == ModuleLayout::kTransformers5) {
    if (absl::StartsWith(path, "visual.")) return absl::StrCat("model.", path);
    for (const char* decoder : {"layers.", "embed_tokens", "norm"}) {
      if (absl::StartsWith(path, absl::StrCat("model.", decoder))) {
        return absl::StrCat("model.language_model", path.substr(path.find('.')));
      }
    }
  }
  return path;
}

absl::StatusOr<std::optional<LoraModule>> SelectModule(const LoraConfig& config,
                                                       const std::string& path) {
  FEDUMM_ASSIGN_OR_RETURN(const bool target, IsTarget(config, path));
  if (!target) return std::nullopt;
  FEDUMM_ASSIGN_OR_RETURN(const int64_t r, ValueFor(config.rank_pattern, path, config.r));
  FEDUMM_ASSIGN_OR_RETURN(const double alpha,
                          ValueFor(config.alpha_pattern, path, config.lora_alpha));
  const double rank = static_cast<double>(r);
  return LoraModule{.r = r, .scale = alpha / (config.use_rslora ? std::sqrt(rank) : rank)};
}

absl::StatusOr<LoraConfig> NameEachModule(const LoraConfig& config,
                                          const std::vector<std::string>& paths, ModuleLayout from,
                                          ModuleLayout to) {
  LoraConfig exact = config;
  exact.target_modules = {};
  exact.exclude_modules = {};
  exact.layers_to_transform.clear();
  exact.layers_pattern.clear();
  exact.rank_pattern.clear();
  exact.alpha_pattern.clear();
  for (const std::string& path : paths) {
    const std::string old_path = ToLayout(path, from);
    FEDUMM_ASSIGN_OR_RETURN(const std::optional<LoraModule> module, SelectModule(config, old_path));
    if (!module.has_value()) continue;
    const std::string new_path = ToLayout(path, to);
    exact.target_modules.names.push_back(new_path);
    // Keys are regular expressions; a whole path matches itself, and no other path as long.
    if (module->r != config.r) exact.rank_pattern.emplace_back(new_path, module->r);
    FEDUMM_ASSIGN_OR_RETURN(const double alpha,
                            ValueFor(config.alpha_pattern, old_path, config.lora_alpha));
    if (alpha != config.lora_alpha) exact.alpha_pattern.emplace_back(new_path, alpha);
  }
  return exact;
}

absl::StatusOr<LoraConfig> RespellConfig(const LoraConfig& config,
                                         const std::vector<std::string>& paths, ModuleLayout from,
                                         ModuleLayout to) {
  for (const std::string& path : paths) {
    FEDUMM_ASSIGN_OR_RETURN(const std::optional<LoraModule> module,
                            SelectModule(config, ToLayout(path, from)));
    FEDUMM_ASSIGN_OR_RETURN(const std::optional<LoraModule> unchanged,
                            SelectModule(config, ToLayout(path, to)));
    if (module != unchanged) return NameEachModule(config, paths, from, to);
  }
  return config;
}

std::vector<std::string> UnmatchedTargets(const LoraConfig& config,
                                          const std::vector<std::string>& paths) {
  std::vector<std::string> unmatched;
  for (const std::string& name : config.target_modules.names) {
    if (std::none_of(paths.begin(), paths.end(),
                     [&](const std::string& path) { return Names(name, path); })) {
      unmatched.push_back(name);
    }
  }
  return unmatched;
}

}  // namespace fedumm::model
