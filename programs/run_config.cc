#include "programs/run_config.h"

#include <algorithm>
#include <array>
#include <map>
#include <sstream>
#include <utility>
#include <variant>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "fedumm/mod.h"
#include "fedumm/model/world.h"
#include "fedumm/strategies.h"

#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

namespace fedumm::programs {
namespace {

constexpr std::string_view kKindKey = "world.kind";

// Keys of older settings files.
constexpr std::array<std::pair<std::string_view, std::string_view>, 1> kOldNames = {
    {{"data.dataset", kKindKey}}};

std::string_view NewNameOf(std::string_view key) {
  for (const auto& [before, now] : kOldNames) {
    if (key == before) return now;
  }
  return key;
}

struct Entry {
  std::string key;
  ConfigValue value;
  int64_t line = 0;
};

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
            absl::StrCat(Quoted(key), " must be a list of texts without commas"));
      }
      items.push_back(text->get());
    }
    return absl::StrJoin(items, ",");
  }
  return absl::InvalidArgumentError(absl::StrCat(Quoted(key), " has a type that no key takes"));
}

absl::Status AtLine(int64_t line, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("line ", line, ": ", fedumm::Text(what)));
}

absl::Status Flatten(const toml::table& table, const std::string& prefix,
                     std::vector<Entry>& entries) {
  for (const auto& [name, node] : table) {
    const std::string key = prefix + std::string(name.str());
    if (const toml::table* inner = node.as_table()) {
      FEDUMM_RETURN_IF_ERROR(Flatten(*inner, key + ".", entries));
      continue;
    }
    const auto line = static_cast<int64_t>(node.source().begin.line);
    absl::StatusOr<ConfigValue> value = ValueOf(key, node);
    if (!value.ok()) return AtLine(line, std::string(value.status().message()));
    entries.push_back({std::string(NewNameOf(key)), *std::move(value), line});
  }
  return absl::OkStatus();
}

// A kind whose table has `key`, or "".
std::string KindWith(std::string_view key) {
  for (const std::string& kind : model::WorldKinds()) {
    const auto table = RunSettings(kind);
    if (table.ok() && FindSetting(*table, key) != nullptr) return kind;
  }
  return "";
}

absl::Status UnknownKey(const Entry& entry, const std::vector<Setting>& table,
                        std::string_view kind) {
  const std::string other = KindWith(entry.key);
  const std::string hint = other.empty() ? DidYouMean(table, entry.key)
                                         : absl::StrCat(" in a world of kind '", fedumm::Text(kind),
                                                        "': it belongs to kind '", other, "'");
  return AtLine(entry.line, absl::StrCat("unknown key ", Quoted(entry.key), hint,
                                         "; `fedumm settings` prints every key"));
}

absl::StatusOr<RunConfig> Complete(const std::vector<Entry>& entries) {
  std::string kind = model::WorldKinds().front();
  for (const Entry& entry : entries) {
    const auto* text = std::get_if<std::string>(&entry.value);
    if (entry.key == kKindKey && text != nullptr) kind = *text;
  }
  absl::StatusOr<std::vector<Setting>> table = RunSettings(kind);
  if (!table.ok()) {  // the check below says it with its line
    FEDUMM_ASSIGN_OR_RETURN(table, RunSettings(model::WorldKinds().front()));
  }
  ConfigRecord given;
  for (const Entry& entry : entries) {
    const Setting* setting = FindSetting(*table, entry.key);
    if (setting == nullptr) return UnknownKey(entry, *table, kind);
    absl::StatusOr<ConfigValue> value = CheckSetting(*setting, entry.value);
    if (!value.ok()) return AtLine(entry.line, std::string(value.status().message()));
    given.Set(entry.key, *std::move(value));
  }
  FEDUMM_ASSIGN_OR_RETURN(CompletedSettings completed, CompleteSettings(*table, given));
  RunConfig config{std::move(completed.values)};
  // What needs several settings to be checked, before anything starts.
  FEDUMM_RETURN_IF_ERROR(ModsFromNames(config.List("mods"), config.values).status());
  FEDUMM_RETURN_IF_ERROR(
      NewStrategy(config.Text("federation.strategy"), {}, config.values).status());
  return config;
}

// "federation" of "federation.rounds", "" of "name".
std::string_view SectionOf(std::string_view key) {
  const size_t dot = key.rfind('.');
  return dot == std::string_view::npos ? std::string_view() : key.substr(0, dot);
}

std::string TomlText(const std::string& text) {
  const bool has_control = std::any_of(text.begin(), text.end(),
                                       [](char c) { return (c >= 0 && c < ' ') || c == '\x7f'; });
  if (!has_control && text.find('\'') == std::string::npos &&
      text.find('\\') != std::string::npos) {
    return absl::StrCat("'", text, "'");
  }
  std::string quoted = "\"";
  for (const char c : text) {
    if ((c >= 0 && c < ' ') || c == '\x7f') {
      absl::StrAppendFormat(&quoted, "\\u%04x", static_cast<unsigned>(c));
      continue;
    }
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + '"';
}

std::string TomlValue(const ConfigValue& value) {
  const std::string text = SettingText(value);
  if (std::holds_alternative<std::string>(value)) return TomlText(text);
  if (std::holds_alternative<double>(value) && text.find_first_of(".en") == std::string::npos) {
    return text + ".0";
  }
  return text;
}

}  // namespace

absl::StatusOr<RunConfig> RunConfig::Defaults(std::string_view world_kind) {
  const std::string kind =
      world_kind.empty() ? model::WorldKinds().front() : std::string(world_kind);
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<Setting> table, RunSettings(kind));
  FEDUMM_ASSIGN_OR_RETURN(CompletedSettings completed, CompleteSettings(table, {}));
  return RunConfig{std::move(completed.values)};
}

absl::StatusOr<RunConfig> RunConfig::Load(const std::string& path) {
  toml::parse_result parsed = toml::parse_file(path);
  if (!parsed) {
    std::ostringstream description;
    description << parsed.error().description();
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": line ", parsed.error().source().begin.line, ": ", description.str()));
  }
  std::vector<Entry> entries;
  const absl::Status flattened = Flatten(parsed.table(), "", entries);
  absl::StatusOr<RunConfig> config = flattened.ok() ? Complete(entries) : flattened;
  if (config.ok()) return config;
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", config.status().message()));
}

std::string RunConfig::Text(std::string_view key) const { return TextOr(values, key, ""); }
std::vector<std::string> RunConfig::List(std::string_view key) const {
  return absl::StrSplit(Text(key), ',', absl::SkipEmpty());
}
double RunConfig::Number(std::string_view key) const { return NumberOr(values, key, 0); }
int64_t RunConfig::Integer(std::string_view key) const {
  const ConfigValue* value = values.Find(key);
  const int64_t* integer = value == nullptr ? nullptr : std::get_if<int64_t>(value);
  return integer == nullptr ? 0 : *integer;
}
bool RunConfig::Flag(std::string_view key) const { return Number(key) != 0; }

absl::StatusOr<ConfigRecord> SettingsForNodes(const RunConfig& config) {
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<Setting> table, NodeTable(config.Text(kKindKey)));
  ConfigRecord sent;
  for (const auto& [key, value] : config.values) {
    const bool is_read = FindSetting(table, key) != nullptr || key == "federation.clients" ||
                         key == "federation.rounds";
    if (is_read && !model::IsLocalSetting(key)) sent.Set(key, value);
  }
  return sent;
}

ConfigRecord LocalSettings(const RunConfig& config) {
  ConfigRecord local;
  for (const auto& [key, value] : config.values) {
    if (model::IsLocalSetting(key)) local.Set(key, value);
  }
  return local;
}

absl::StatusOr<NodeSettings> SettingsOfNode(const ConfigRecord& received,
                                            const ConfigRecord& local) {
  const std::string kind = TextOr(
      received, kKindKey, TextOr(received, kOldNames.front().first, model::WorldKinds().front()));
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<Setting> table, NodeTable(kind));
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<Setting> of_world, model::WorldSettings(kind));
  ConfigRecord given = local;
  std::vector<std::string> unknown;
  for (const auto& [key, value] : received) {
    // The apps of `flwr run` may leave out the section: "learning-rate".
    const std::string in_train = absl::StrCat("train.", key);
    const std::string name = FindSetting(table, in_train) == nullptr || received.contains(in_train)
                                 ? std::string(NewNameOf(key))
                                 : in_train;
    // The settings under [evaluate] are the server's own: NodeTable has no range to check them by.
    if (model::IsLocalSetting(name) || absl::StartsWith(name, "evaluate.")) continue;
    given.Set(name, value);
    if (FindSetting(table, name) == nullptr) {
      const std::string hint = DidYouMean(table, name);
      if (!hint.empty()) unknown.push_back(absl::StrCat(Quoted(key), hint));
    }
  }
  FEDUMM_ASSIGN_OR_RETURN(const CompletedSettings completed, CompleteSettings(table, given));

  NodeSettings node;
  std::vector<std::string> filled;
  for (const auto& [key, value] : completed.values) {
    const bool was_given = given.contains(key);
    const bool left_to_client =
        absl::StartsWith(key, "train.") && FindSetting(of_world, key) == nullptr;
    if (was_given || !left_to_client) node.config.values.Set(key, value);
    if (was_given || model::IsLocalSetting(key)) continue;
    filled.push_back(absl::StrCat(key, " = ", SettingText(value)));
  }
  if (!filled.empty()) {
    node.note = absl::StrCat("the run's settings lack some keys, which take their defaults: ",
                             absl::StrJoin(filled, ", "));
  }
  if (!unknown.empty()) {
    absl::StrAppend(
        &node.note, node.note.empty() ? "" : "; ",
        "the run's settings have keys that are not known: ", absl::StrJoin(unknown, ", "));
  }
  return node;
}

std::string SettingsToml(const std::vector<Setting>& table, const RunConfig& config) {
  std::map<std::string_view, std::vector<std::pair<std::string, std::string>>> lines;
  std::vector<std::string_view> sections = {""};  // in the order of their first keys
  size_t width = 0;
  for (const Setting& setting : table) {
    const std::string_view section = SectionOf(setting.key);
    if (std::find(sections.begin(), sections.end(), section) == sections.end()) {
      sections.push_back(section);
    }
    const ConfigValue* value = config.values.Find(setting.key);
    const std::string_view name =
        std::string_view(setting.key).substr(section.empty() ? 0 : section.size() + 1);
    std::string line = absl::StrCat(fedumm::Text(name), " = ",
                                    TomlValue(value == nullptr ? setting.default_value : *value));
    constexpr size_t kWidest = 44;
    if (line.size() <= kWidest) width = std::max(width, line.size());
    lines[section].emplace_back(std::move(line),
                                absl::StrCat(setting.help, "; ", AllowedText(setting)));
  }
  std::string text;
  for (const std::string_view section : sections) {
    if (!section.empty()) absl::StrAppend(&text, "\n[", fedumm::Text(section), "]\n");
    for (const auto& [line, help] : lines[section]) {
      const size_t spaces = line.size() < width ? width - line.size() : 0;
      absl::StrAppend(&text, line, std::string(spaces + 2, ' '), "# ", help, "\n");
    }
  }
  return text;
}

absl::StatusOr<std::string> SettingValue(const RunConfig& config, std::string_view key) {
  const ConfigValue* value = config.values.Find(NewNameOf(key));
  if (value != nullptr) return SettingText(*value);
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<Setting> table, RunSettings(config.Text(kKindKey)));
  return absl::NotFoundError(
      absl::StrCat("there is no setting ", Quoted(key), DidYouMean(table, key)));
}

}  // namespace fedumm::programs
