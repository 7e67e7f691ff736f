#include "fedumm/settings.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <type_traits>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace fedumm {
namespace {

// Levenshtein's distance.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, replaced}));
    }
  }
  return row.back();
}

std::string_view LastPart(std::string_view key) { return key.substr(key.rfind('.') + 1); }

absl::Status NotAllowed(const Setting& setting, const ConfigValue& value) {
  return absl::InvalidArgumentError(
      absl::StrCat("'", setting.key, "' must be ", AllowedText(setting), ": ", SettingText(value)));
}

// `value` in the type of `like`, if that loses nothing.
ConfigValue InTypeOf(const ConfigValue& like, const ConfigValue& value) {
  if (std::holds_alternative<double>(like)) {
    if (const auto* integer = std::get_if<int64_t>(&value)) return static_cast<double>(*integer);
    if (const auto* natural = std::get_if<uint64_t>(&value)) return static_cast<double>(*natural);
  }
  if (std::holds_alternative<int64_t>(like)) {
    const auto* natural = std::get_if<uint64_t>(&value);
    if (natural != nullptr && *natural <= uint64_t{std::numeric_limits<int64_t>::max()}) {
      return static_cast<int64_t>(*natural);
    }
    const auto* number = std::get_if<double>(&value);  // Python's 8.0, say
    if (number != nullptr && std::nearbyint(*number) == *number && std::fabs(*number) <= 0x1p53) {
      return static_cast<int64_t>(*number);
    }
  }
  return value;
}

bool InRange(const Setting& setting, double number) {
  return std::isfinite(number) && number >= setting.min && number <= setting.max &&
         !(setting.above_min && number == setting.min);
}

}  // namespace

const Setting* FindSetting(std::span<const Setting> table, std::string_view key) {
  const auto it = std::find_if(table.begin(), table.end(),
                               [&](const Setting& setting) { return setting.key == key; });
  return it == table.end() ? nullptr : &*it;
}

absl::StatusOr<ConfigValue> CheckSetting(const Setting& setting, const ConfigValue& value) {
  ConfigValue typed = InTypeOf(setting.default_value, value);
  if (typed.index() != setting.default_value.index()) return NotAllowed(setting, value);
  bool allowed = true;
  if (const auto* number = std::get_if<double>(&typed)) {
    allowed = InRange(setting, *number);
  } else if (const auto* integer = std::get_if<int64_t>(&typed)) {
    allowed = InRange(setting, static_cast<double>(*integer));
  } else if (const auto* text = std::get_if<std::string>(&typed)) {
    allowed = setting.choices.empty() || std::find(setting.choices.begin(), setting.choices.end(),
                                                   *text) != setting.choices.end();
  }
  if (!allowed) return NotAllowed(setting, value);
  return typed;
}

std::string DidYouMean(std::span<const Setting> table, std::string_view key) {
  const Setting* nearest = nullptr;
  // A name of one or two letters is near to any other.
  const size_t length = LastPart(key).size();
  size_t least = std::min(std::max<size_t>(2, length / 3) + 1, std::max<size_t>(length, 2));
  for (const Setting& setting : table) {
    // The right name in a wrong section counts as near, too.
    const size_t distance = std::min(EditDistance(key, setting.key),
                                     EditDistance(LastPart(key), LastPart(setting.key)) + 1);
    if (distance >= least) continue;
    least = distance;
    nearest = &setting;
  }
  return nearest == nullptr ? "" : absl::StrCat(" (did you mean '", nearest->key, "'?)");
}

absl::StatusOr<CompletedSettings> CompleteSettings(std::span<const Setting> table,
                                                   const ConfigRecord& given) {
  CompletedSettings completed;
  for (const Setting& setting : table) {
    const ConfigValue* value = given.Find(setting.key);
    if (value == nullptr) {
      completed.filled_in.push_back(setting.key);
      completed.values.Set(setting.key, setting.default_value);
      continue;
    }
    FEDUMM_ASSIGN_OR_RETURN(ConfigValue checked, CheckSetting(setting, *value));
    completed.values.Set(setting.key, std::move(checked));
  }
  for (const auto& [key, value] : given) {
    if (FindSetting(table, key) != nullptr) continue;
    completed.not_in_table.push_back(key);
    completed.values.Set(key, value);
  }
  return completed;
}

std::string SettingText(const ConfigValue& value) {
  return std::visit(
      [](const auto& held) -> std::string {
        using Held = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<Held, bool>) {
          return held ? "true" : "false";
        } else if constexpr (std::is_arithmetic_v<Held>) {
          return absl::StrCat(held);
        } else if constexpr (std::is_same_v<Held, std::string>) {
          return held;
        } else if constexpr (std::is_same_v<Held, Bytes>) {
          return absl::StrCat(held.value.size(), " bytes");
        } else {
          return absl::StrCat("a list of ", held.size(), " values");
        }
      },
      value);
}

std::string AllowedText(const Setting& setting) {
  if (std::holds_alternative<bool>(setting.default_value)) return "true or false";
  if (std::holds_alternative<std::string>(setting.default_value)) {
    if (setting.choices.empty()) return "text";
    return absl::StrCat("one of ", absl::StrJoin(setting.choices, ", "));
  }
  std::string text =
      std::holds_alternative<int64_t>(setting.default_value) ? "a whole number" : "a number";
  if (setting.min > -std::numeric_limits<double>::max()) {
    absl::StrAppend(&text, setting.above_min ? " above " : " from ", setting.min);
  }
  if (setting.max < std::numeric_limits<double>::max()) {
    absl::StrAppend(&text, setting.above_min ? " and at most " : " to ", setting.max);
  }
  return text;
}

}  // namespace fedumm
