#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fedumm::model {

// Which spelling of the module paths an adapter uses. transformers before 4.52, and BLIP-3o, name
// modules as the published weight files do; newer versions put "language_model." after "model." and
// "model." before "visual.". PEFT reads an adapter only under the names of its transformers.
enum class ModuleLayout { kFile, kTransformers5 };

// `path` is in the file layout.
std::string ToLayout(const std::string& path, ModuleLayout layout);

// Modules by name: if there is a pattern, the paths that it matches as a whole; else the paths that
// are one of the names, or end with "." and one of them.
struct ModuleSelector {
  std::optional<std::string> pattern;
  std::vector<std::string> names;

  bool empty() const { return !pattern.has_value() && names.empty(); }
};

// init_lora_weights: true, "gaussian", false, "orthogonal", "eva". None of them changes the base
// weights, so a trained adapter that began as any of them is complete. kOrthogonal and kEva are
// known of trained adapters only: LoraAdapter::Attach makes no fresh ones.
enum class LoraInit { kDefault, kGaussian, kRandom, kOrthogonal, kEva };

// PEFT's LoraConfig: its names, its defaults. Fields that would change the forward pass in a way
// that fedumm does not compute are not here: ParsePeftConfig refuses them.
struct LoraConfig {
  int64_t r = 8;
  double lora_alpha = 8;
  double lora_dropout = 0;
  bool use_rslora = false;        // scale by 1/sqrt(r), not 1/r
  ModuleSelector target_modules;  // the pattern "all-linear": every linear but the head
  ModuleSelector exclude_modules;
  // Empty: all. A module whose whole path is among target_modules' names is adapted in any case.
  std::vector<int64_t> layers_to_transform;
  std::vector<std::string> layers_pattern;  // what comes before a layer's index; empty: anything
  std::vector<std::pair<std::string, int64_t>> rank_pattern;  // the first that matches wins
  std::vector<std::pair<std::string, double>> alpha_pattern;
  LoraInit init_lora_weights = LoraInit::kDefault;

  // Carried along.
  std::optional<std::string> task_type;
  std::optional<std::string> base_model_name_or_path;
  std::optional<std::string> revision;
  bool inference_mode = true;
};

// INVALID_ARGUMENT, naming the field, for a value out of range or fields that contradict each
// other.
absl::Status ValidateLoraConfig(const LoraConfig& config);

// Reads the text of an adapter_config.json. INVALID_ARGUMENT for what is no LoRA configuration,
// UNIMPLEMENTED, naming the field, for a variant of LoRA that fedumm does not compute and for an
// adapter that began with changed base weights ("pissa", "olora", "corda", "loftq", "lora_ga").
// Two variants are refused on purpose, with what to do instead: use_dora, whose magnitudes are no
// matrices that can be averaged or folded into A and B, and modules_to_save, whose modules
// (lm_head, embed_tokens) are whole tensors that would travel in every round.
absl::StatusOr<LoraConfig> ParsePeftConfig(std::string_view json);
// The text that PEFT 0.21 writes: every field, sorted.
std::string FormatPeftConfig(const LoraConfig& config);

// What the configuration says about one module: absent if it gets no adapter. `path` is spelled in
// the layout that the configuration was written for. INVALID_ARGUMENT for a bad pattern.
struct LoraModule {
  int64_t r;
  double scale;
  bool operator==(const LoraModule&) const = default;
};
absl::StatusOr<std::optional<LoraModule>> SelectModule(const LoraConfig& config,
                                                       const std::string& path);
// `config`, written for the layout `from`, for the layout `to`: with the same ranks and scales of
// the same modules among `paths` (all linears of a model, in the file layout). It stays as it is
// where that holds already, as with names like "q_proj"; else the result names each module by its
// whole path. INVALID_ARGUMENT for a bad pattern.
absl::StatusOr<LoraConfig> RespellConfig(const LoraConfig& config,
                                         const std::vector<std::string>& paths, ModuleLayout from,
                                         ModuleLayout to);
// The names in target_modules that are those of none of `paths`, whatever the other fields say.
std::vector<std::string> UnmatchedTargets(const LoraConfig& config,
                                          const std::vector<std::string>& paths);

}  // namespace fedumm::model
