#include "programs/run_config.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "base/text.h"

#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

namespace fedumm::programs {
namespace {

// Every key there is, with its default (those of configs/demo.toml); the default's type is the
// key's type.
const ConfigRecord& Defaults() {
  static const auto& defaults = *new ConfigRecord{
      {"name", "run"},
      {"seed", int64_t{0}},
      {"federation.clients", int64_t{4}},
      {"federation.rounds", int64_t{40}},
      {"federation.strategy", "fedavg"},
      {"federation.fraction-train", 1.0},
      {"federation.min-train-nodes", int64_t{1}},
      {"federation.min-available-nodes", int64_t{2}},
      {"federation.round-timeout", 3600.0},
      {"federation.quorum", int64_t{1}},
      {"model.checkpoint", "configs/tiny"},
      {"lora.r", int64_t{6}},
      {"lora.lora-alpha", 12.0},
      {"lora.lora-dropout", 0.0},
      {"lora.use-rslora", false},
      {"lora.target-modules",
       R"(model\.(layers\.\d+\.(self_attn|mlp)\..*|dit\.model\.(caption_projection|layers\.\d+\.(attn\d|feed_forward))\..*))"},
      {"data.dataset", "easy-vqa"},
      {"data.partitioner", "dirichlet"},
      {"data.alpha", 0.5},
      {"data.label", "answer"},
      {"data.negated", false},
      {"data.min-size", int64_t{10}},
      {"data.balanced-batches", true},
      {"train.tasks", "vqa,draw"},
      {"train.local-steps", int64_t{10}},
      {"train.vqa-batch-size", int64_t{16}},
      {"train.draw-batch-size", int64_t{16}},
      {"train.gradient-accumulation-steps", int64_t{1}},
      {"train.vqa-loss-weight", 1.0},
      {"train.draw-loss-weight", 5.0},
      {"train.learning-rate", 5e-3},
      {"train.final-learning-rate", 0.0},
      {"train.warmup-steps", int64_t{0}},
      {"train.schedule", "cosine"},
      {"train.weight-decay", 0.0},
      {"train.max-grad-norm", 1.0},
      {"train.keep-optimizer", true},
      {"evaluate.every", int64_t{5}},
      {"evaluate.stride", int64_t{5}},
      {"evaluate.drawings-per-prompt", int64_t{16}},
      {"centralized.batch-factor", int64_t{2}},
      {"centralized.learning-rate", 5e-3},
  };
  return defaults;
}

std::string_view TypeName(const ConfigValue& value) {
  switch (value.index()) {
    case 0:
      return "a number";
    case 1:
      return "a whole number";
    case 3:
      return "true or false";
    default:
      return "text";
  }
}

// `value` in the type of `expected`, if that loses nothing.
absl::StatusOr<ConfigValue> Coerce(std::string_view key, const ConfigValue& value,
                                   const ConfigValue& expected) {
  if (value.index() == expected.index()) return value;
  if (std::holds_alternative<double>(expected) && std::holds_alternative<int64_t>(value)) {
    return static_cast<double>(std::get<int64_t>(value));
  }
  if (std::holds_alternative<int64_t>(expected) && std::holds_alternative<uint64_t>(value)) {
    return static_cast<int64_t>(std::get<uint64_t>(value));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", Text(key), "' must be ", Text(TypeName(expected))));
}

absl::StatusOr<ConfigValue> ValueOf(std::string_view key, const toml::node& node) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* flag = node.as_boolean()) return flag->get();
  if (const auto* integer = node.as_integer()) return integer->get();
  if (const auto* number = node.as_floating_point()) return number->get();
  if (const auto* array = node.as_array()) {
    std::vector<std::string> items;
    for (const toml::node& item : *array) {
      const auto* text = item.as_string();
      if (text == nullptr || text->get().find(',') != std::string::npos) {
        return absl::InvalidArgumentError(
            absl::StrCat("'", Text(key), "' must be a list of texts without commas"));
      }
      items.push_back(text->get());
    }
    return absl::StrJoin(items, ",");
  }
  return absl::InvalidArgumentError(absl::StrCat("'", Text(key), "' has a type that no key takes"));
}

absl::Status Flatten(const toml::table& table, const std::string& prefix, ConfigRecord& values) {
  for (const auto& [name, node] : table) {
    const std::string key = prefix + std::string(name.str());
    if (const toml::table* inner = node.as_table()) {
      FEDUMM_RETURN_IF_ERROR(Flatten(*inner, key + ".", values));
      continue;
    }
    const ConfigValue* expected = Defaults().Find(key);
    if (expected == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("line ", node.source().begin.line,
                                                     ": unknown key '", key,
                                                     "' (configs/demo.toml shows every key)"));
    }
    absl::StatusOr<ConfigValue> value = ValueOf(key, node);
    if (value.ok()) value = Coerce(key, *value, *expected);
    if (!value.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", node.source().begin.line, ": ", value.status().message()));
    }
    values.Set(key, *std::move(value));
  }
  return absl::OkStatus();
}

absl::Status CheckRanges(const RunConfig& config) {
  const auto positive = [&](std::string_view key) -> absl::Status {
    if (config.Number(key) > 0 && std::isfinite(config.Number(key))) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("'", Text(key), "' must be positive: ", config.Number(key)));
  };
  for (const std::string_view key :
       {"federation.clients", "federation.rounds", "federation.round-timeout", "federation.quorum",
        "federation.min-available-nodes", "lora.r", "lora.lora-alpha", "data.alpha",
        "train.local-steps", "train.vqa-batch-size", "train.draw-batch-size",
        "train.gradient-accumulation-steps", "train.learning-rate", "evaluate.every",
        "evaluate.stride", "evaluate.drawings-per-prompt", "centralized.batch-factor",
        "centralized.learning-rate"}) {
    FEDUMM_RETURN_IF_ERROR(positive(key));
  }
  const auto one_of = [&](const std::string& key,
                          const std::vector<std::string>& allowed) -> absl::Status {
    const std::string value = config.Text(key);
    if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "'", key, "' is '", value, "' but must be one of ", absl::StrJoin(allowed, ", ")));
  };
  FEDUMM_RETURN_IF_ERROR(one_of("federation.strategy", {"fedavg"}));
  FEDUMM_RETURN_IF_ERROR(one_of("data.dataset", {"easy-vqa"}));
  FEDUMM_RETURN_IF_ERROR(one_of("data.partitioner", {"dirichlet", "iid", "nvflare", "flower"}));
  FEDUMM_RETURN_IF_ERROR(one_of("train.schedule", {"cosine", "constant"}));
  FEDUMM_RETURN_IF_ERROR(one_of("data.label", {"answer", "question-type"}));
  if (config.Integer("federation.clients") > 10'000) {
    return absl::InvalidArgumentError(absl::StrCat("'federation.clients' must be at most 10000: ",
                                                   config.Integer("federation.clients")));
  }
  return one_of("train.tasks", {"vqa", "draw", "vqa,draw"});
}

}  // namespace

absl::StatusOr<RunConfig> RunConfig::Load(const std::string& path) {
  toml::parse_result parsed = toml::parse_file(path);
  if (!parsed) {
    std::ostringstream description;
    description << parsed.error().description();
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": line ", parsed.error().source().begin.line, ": ", description.str()));
  }
  RunConfig config{Defaults()};
  absl::Status status = Flatten(parsed.table(), "", config.values);
  if (status.ok()) status = CheckRanges(config);
  if (!status.ok()) return absl::InvalidArgumentError(absl::StrCat(path, ": ", status.message()));
  return config;
}

absl::StatusOr<RunConfig> RunConfig::FromRecord(const ConfigRecord& received) {
  RunConfig config{Defaults()};
  for (const auto& [key, value] : received) {
    if (const ConfigValue* expected = Defaults().Find(key); expected != nullptr) {
      FEDUMM_ASSIGN_OR_RETURN(ConfigValue coerced, Coerce(key, value, *expected));
      config.values.Set(key, std::move(coerced));
    } else {
      config.values.Set(key, value);
    }
  }
  FEDUMM_RETURN_IF_ERROR(CheckRanges(config));
  return config;
}

std::string RunConfig::Text(std::string_view key) const { return TextOr(values, key, ""); }
double RunConfig::Number(std::string_view key) const { return NumberOr(values, key, 0); }
int64_t RunConfig::Integer(std::string_view key) const {
  const ConfigValue* value = values.Find(key);
  const int64_t* integer = value == nullptr ? nullptr : std::get_if<int64_t>(value);
  return integer == nullptr ? 0 : *integer;
}
bool RunConfig::Flag(std::string_view key) const { return Number(key) != 0; }

}  // namespace fedumm::programs
