#include "fedumm/model/peft_config.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace fedumm::model {
namespace {

using Json = nlohmann::ordered_json;  // the order of rank_pattern counts

constexpr size_t kMaxConfigBytes = size_t{1} << 20;
constexpr int64_t kMaxRank = 65'536;

absl::Status Bad(const std::string& field, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(field, " must be ", what));
}

absl::Status CheckRank(const std::string& field, int64_t rank) {
  if (rank >= 1 && rank <= kMaxRank) return absl::OkStatus();
  return Bad(field, absl::StrCat("between 1 and ", kMaxRank, ": ", rank));
}

absl::Status ReadRank(const std::string& field, const Json& value, int64_t& out) {
  if (!value.is_number_integer()) return Bad(field, "an integer");
  out = value.get<int64_t>();
  return absl::OkStatus();
}

absl::Status ReadNumber(const std::string& field, const Json& value, double& out) {
  if (!value.is_number()) return Bad(field, "a number");
  out = value.get<double>();
  return absl::OkStatus();
}

absl::Status ReadBool(const std::string& field, const Json& value, bool& out) {
  if (!value.is_boolean()) return Bad(field, "true or false");
  out = value.get<bool>();
  return absl::OkStatus();
}

absl::Status ReadOptionalText(const std::string& field, const Json& value,
                              std::optional<std::string>& out) {
  if (value.is_null()) return absl::OkStatus();
  if (!value.is_string()) return Bad(field, "text or null");
  out = value.get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadNames(const std::string& field, const Json& value, std::vector<std::string>& out) {
  if (!value.is_array()) return Bad(field, "a list of names");
  for (const Json& name : value) {
    if (!name.is_string() || name.get_ref<const std::string&>().empty()) {
      return Bad(field, "a list of names");
    }
    out.push_back(name.get<std::string>());
  }
  return absl::OkStatus();
}

absl::Status ReadSelector(const std::string& field, const Json& value, ModuleSelector& out) {
  if (value.is_null()) return absl::OkStatus();
  if (!value.is_string()) return ReadNames(field, value, out.names);
  if (!value.get_ref<const std::string&>().empty()) out.pattern = value.get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadLayers(const std::string& field, const Json& value, std::vector<int64_t>& out) {
  if (value.is_null()) return absl::OkStatus();
  if (value.is_number_integer()) {
    out.push_back(value.get<int64_t>());
    return absl::OkStatus();
  }
  if (!value.is_array()) return Bad(field, "a layer index or a list of them");
  for (const Json& layer : value) {
    if (!layer.is_number_integer()) return Bad(field, "a layer index or a list of them");
    out.push_back(layer.get<int64_t>());
  }
  return absl::OkStatus();
}

absl::Status ReadLayersPattern(const std::string& field, const Json& value,
                               std::vector<std::string>& out) {
  if (value.is_null()) return absl::OkStatus();
  if (!value.is_string()) return ReadNames(field, value, out);
  if (!value.get_ref<const std::string&>().empty()) out.push_back(value.get<std::string>());
  return absl::OkStatus();
}

template <typename Value, typename Read>
absl::Status ReadPatternMap(const std::string& field, const Json& value, const Read& read,
                            std::vector<std::pair<std::string, Value>>& out) {
  if (value.is_null()) return absl::OkStatus();
  if (!value.is_object()) return Bad(field, "an object");
  for (const auto& item : value.items()) {
    Value entry{};
    FEDUMM_RETURN_IF_ERROR(read(absl::StrCat(field, "[", item.key(), "]"), item.value(), entry));
    out.emplace_back(item.key(), entry);
  }
  return absl::OkStatus();
}

// For error texts. Does not descend: a hostile file nests deeper than the stack is.
std::string TextOf(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.type_name();
}

// The names of init_lora_weights that fedumm reads.
constexpr std::pair<const char*, LoraInit> kInits[] = {{"gaussian", LoraInit::kGaussian},
                                                       {"orthogonal", LoraInit::kOrthogonal},
                                                       {"eva", LoraInit::kEva}};

absl::Status ReadInit(const std::string& field, const Json& value, LoraInit& out) {
  if (value.is_boolean() || value.is_null()) {
    out = value == true ? LoraInit::kDefault : LoraInit::kRandom;
    return absl::OkStatus();
  }
  const std::string name = absl::AsciiStrToLower(TextOf(value));
  for (const auto& [known, init] : kInits) {
    if (value.is_string() && name == known) {
      out = init;
      return absl::OkStatus();
    }
  }
  const auto unsupported = [&](const char* reason) {
    return absl::UnimplementedError(
        absl::StrCat(field, " is not supported: ", TextOf(value), reason));
  };
  for (const char* const residual : {"pissa", "olora", "corda", "loftq", "lora_ga"}) {
    if (!absl::StartsWith(name, residual)) continue;
    return unsupported(
        " changes the base weights, and the adapter is meaningless without the changed ones; "
        "convert "
        "it to a plain adapter with PEFT (save_pretrained's "
        "path_initial_model_for_weight_conversion)");
  }
  if (name == "mica") return unsupported(" trains lora_A alone");
  return unsupported("");
}

absl::Status MustBe(const std::string& field, const Json& value, const char* supported) {
  if (value == supported) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(field, " is not supported: ", TextOf(value)));
}

// A switch that is off, or a variant's settings that are not there.
bool IsOff(const Json& value) {
  return value.is_null() || value == false ||
         ((value.is_array() || value.is_object() || value.is_string()) &&
          (value.empty() || value == ""));
}

// UNIMPLEMENTED, with a remedy where there is one, for a field that is on and not known.
absl::Status Refuse(const std::string& field, const Json& value) {
  std::string text = absl::StrCat(field, " is not supported");
  if (field == "use_dora") {
    absl::StrAppend(&text,
                    ": train the adapter again with use_dora = false, or merge it with PEFT "
                    "(merge_and_unload) and use the merged model as the checkpoint");
  } else if (field == "modules_to_save") {
    absl::StrAppend(&text, ": the adapter holds whole trained modules");
    if (value.is_array() && !value.empty() && value[0].is_string()) {
      absl::StrAppend(&text, " (the first is ", value[0].get<std::string>(), ")");
    }
    absl::StrAppend(&text,
                    "; merge it with PEFT (merge_and_unload) and use the merged model as "
                    "the checkpoint, or train without modules_to_save");
  }
  return absl::UnimplementedError(text);
}

using Reader = std::function<absl::Status(const std::string&, const Json&, LoraConfig&)>;

const std::map<std::string, Reader>& Readers() {
  using Field = const std::string&;
  static const auto* const readers = new std::map<std::string, Reader>{
      {"r", [](Field f, const Json& v, LoraConfig& c) { return ReadRank(f, v, c.r); }},
      {"lora_alpha",
       [](Field f, const Json& v, LoraConfig& c) { return ReadNumber(f, v, c.lora_alpha); }},
      {"lora_dropout",
       [](Field f, const Json& v, LoraConfig& c) { return ReadNumber(f, v, c.lora_dropout); }},
      {"use_rslora",
       [](Field f, const Json& v, LoraConfig& c) { return ReadBool(f, v, c.use_rslora); }},
      {"target_modules",
       [](Field f, const Json& v, LoraConfig& c) { return ReadSelector(f, v, c.target_modules); }},
      {"exclude_modules",
       [](Field f, const Json& v, LoraConfig& c) { return ReadSelector(f, v, c.exclude_modules); }},
      {"layers_to_transform",
       [](Field f, const Json& v, LoraConfig& c) {
         return ReadLayers(f, v, c.layers_to_transform);
       }},
      {"layers_pattern", [](Field f, const Json& v,
                            LoraConfig& c) { return ReadLayersPattern(f, v, c.layers_pattern); }},
      {"rank_pattern",
       [](Field f, const Json& v, LoraConfig& c) {
         return ReadPatternMap(f, v, ReadRank, c.rank_pattern);
       }},
      {"alpha_pattern",
       [](Field f, const Json& v, LoraConfig& c) {
         return ReadPatternMap(f, v, ReadNumber, c.alpha_pattern);
       }},
      {"init_lora_weights",
       [](Field f, const Json& v, LoraConfig& c) { return ReadInit(f, v, c.init_lora_weights); }},
      {"task_type",
       [](Field f, const Json& v, LoraConfig& c) { return ReadOptionalText(f, v, c.task_type); }},
      {"base_model_name_or_path",
       [](Field f, const Json& v, LoraConfig& c) {
         return ReadOptionalText(f, v, c.base_model_name_or_path);
       }},
      {"revision",
       [](Field f, const Json& v, LoraConfig& c) { return ReadOptionalText(f, v, c.revision); }},
      {"inference_mode",
       [](Field f, const Json& v, LoraConfig& c) { return ReadBool(f, v, c.inference_mode); }},
      {"peft_type", [](Field f, const Json& v, LoraConfig&) { return MustBe(f, v, "LORA"); }},
      {"bias", [](Field f, const Json& v, LoraConfig&) { return MustBe(f, v, "none"); }},
  };
  return *readers;
}

// Fields that say nothing about the forward pass, or only together with one that must be off.
// eva_config says how init_lora_weights "eva" chose the first values.
bool IsInformational(const std::string& field) {
  return field == "eva_config" || field == "peft_version" || field == "auto_mapping" ||
         field == "megatron_core" || field == "qalora_group_size";
}

Json SelectorJson(const ModuleSelector& selector) {
  if (selector.pattern.has_value()) return *selector.pattern;
  if (selector.names.empty()) return nullptr;
  return selector.names;
}

Json NumberJson(double value) {
  if (value == std::floor(value) && std::abs(value) < 0x1p53) return static_cast<int64_t>(value);
  return value;
}

template <typename T>
Json OptionalJson(const std::optional<T>& value) {
  return value.has_value() ? Json(*value) : Json(nullptr);
}

template <typename T>
Json ListJson(const std::vector<T>& values) {
  return values.empty() ? Json(nullptr) : Json(values);
}

}  // namespace

absl::Status ValidateLoraConfig(const LoraConfig& config) {
  FEDUMM_RETURN_IF_ERROR(CheckRank("r", config.r));
  for (const auto& [pattern, rank] : config.rank_pattern) {
    FEDUMM_RETURN_IF_ERROR(CheckRank(absl::StrCat("rank_pattern[", pattern, "]"), rank));
  }
  if (!std::isfinite(config.lora_alpha)) return Bad("lora_alpha", "finite");
  for (const auto& [pattern, alpha] : config.alpha_pattern) {
    if (!std::isfinite(alpha)) return Bad(absl::StrCat("alpha_pattern[", pattern, "]"), "finite");
  }
  if (!(config.lora_dropout >= 0 && config.lora_dropout < 1)) {
    return Bad("lora_dropout", absl::StrCat("in [0, 1): ", config.lora_dropout));
  }
  if (config.target_modules.empty()) return Bad("target_modules", "given");
  if (config.target_modules.pattern.has_value() &&
      (!config.layers_to_transform.empty() || !config.layers_pattern.empty())) {
    return Bad("layers_to_transform", "absent where target_modules is a pattern");
  }
  return absl::OkStatus();
}

absl::StatusOr<LoraConfig> ParsePeftConfig(std::string_view json) {
  if (json.size() > kMaxConfigBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("adapter_config.json is larger than ", kMaxConfigBytes, " bytes"));
  }
  const Json object = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) {
    return absl::InvalidArgumentError("adapter_config.json is not a JSON object");
  }
  LoraConfig config;
  for (const auto& item : object.items()) {
    if (const auto it = Readers().find(item.key()); it != Readers().end()) {
      FEDUMM_RETURN_IF_ERROR(it->second(item.key(), item.value(), config));
    } else if (!IsInformational(item.key()) && !IsOff(item.value())) {
      // A field that is on and not known may change what the adapter computes.
      return Refuse(item.key(), item.value());
    }
  }
  if (!object.contains("peft_type")) return Bad("peft_type", "LORA");
  FEDUMM_RETURN_IF_ERROR(ValidateLoraConfig(config));
  return config;
}

std::string FormatPeftConfig(const LoraConfig& config) {
  Json init = config.init_lora_weights == LoraInit::kDefault;
  for (const auto& [name, known] : kInits) {
    if (known == config.init_lora_weights) init = name;
  }
  Json ranks = Json::object();
  for (const auto& [pattern, rank] : config.rank_pattern) ranks[pattern] = rank;
  Json alphas = Json::object();
  for (const auto& [pattern, alpha] : config.alpha_pattern) alphas[pattern] = NumberJson(alpha);
  const Json object = {
      {"alora_invocation_tokens", nullptr},
      {"alpha_pattern", std::move(alphas)},
      {"arrow_config", nullptr},
      {"auto_mapping", nullptr},
      {"base_model_name_or_path", OptionalJson(config.base_model_name_or_path)},
      {"bias", "none"},
      {"corda_config", nullptr},
      {"ensure_weight_tying", false},
      {"eva_config", nullptr},
      {"exclude_modules", SelectorJson(config.exclude_modules)},
      {"fan_in_fan_out", false},
      {"inference_mode", config.inference_mode},
      {"init_lora_weights", init},
      {"kasa_config", nullptr},
      {"layer_replication", nullptr},
      {"layers_pattern", ListJson(config.layers_pattern)},
      {"layers_to_transform", ListJson(config.layers_to_transform)},
      {"loftq_config", Json::object()},
      {"lora_alpha", NumberJson(config.lora_alpha)},
      {"lora_bias", false},
      {"lora_dropout", config.lora_dropout},
      {"lora_ga_config", nullptr},
      {"megatron_config", nullptr},
      {"megatron_core", "megatron.core"},
      {"modules_to_save", nullptr},
      {"monteclora_config", nullptr},
      {"peft_type", "LORA"},
      {"peft_version", "0.21.2"},
      {"qalora_group_size", 16},
      {"r", config.r},
      {"rank_pattern", std::move(ranks)},
      {"revision", OptionalJson(config.revision)},
      {"target_modules", SelectorJson(config.target_modules)},
      {"target_parameters", nullptr},
      {"task_type", OptionalJson(config.task_type)},
      {"trainable_token_indices", nullptr},
      {"use_bdlora", nullptr},
      {"use_dora", false},
      {"use_qalora", false},
      {"use_rslora", config.use_rslora},
      {"velora_config", nullptr},
  };
  return object.dump(2, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
}

}  // namespace fedumm::model
