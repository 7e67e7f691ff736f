// Settings of a run: one table says which keys there are, and what each takes.
#pragma once

#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/record.h"

namespace fedumm {

// One key, flat ("lora.r"). The type of the default is the type of the setting: double, int64_t,
// bool or text.
struct Setting {
  std::string key;
  ConfigValue default_value;
  std::string help;
  // Of a number, both included.
  double min = -std::numeric_limits<double>::max();
  double max = std::numeric_limits<double>::max();
  bool above_min = false;            // a number must be larger than `min`
  std::vector<std::string> choices;  // of a text; empty: any
};

// The setting with that key, or nullptr.
const Setting* FindSetting(std::span<const Setting> table, std::string_view key);

// `value` in the type of the setting: whole numbers count as numbers. INVALID_ARGUMENT, naming the
// key, the value and what is allowed, for another type, a number out of range or not finite, or a
// text that is no choice.
absl::StatusOr<ConfigValue> CheckSetting(const Setting& setting, const ConfigValue& value);

// " (did you mean 'lora.r'?)" with the key of the table nearest to `key`, or "" if none is near.
std::string DidYouMean(std::span<const Setting> table, std::string_view key);

struct CompletedSettings {
  ConfigRecord values;                    // every key of the table, in its order, then the others
  std::vector<std::string> filled_in;     // keys that took their default
  std::vector<std::string> not_in_table;  // keys of `given` that the table does not have
};
// `given` with the defaults for what is missing. Errors as of CheckSetting.
absl::StatusOr<CompletedSettings> CompleteSettings(std::span<const Setting> table,
                                                   const ConfigRecord& given);

// A value as a person writes it: 0.003, true, text.
std::string SettingText(const ConfigValue& value);
// "a whole number from 1", "one of cosine, constant".
std::string AllowedText(const Setting& setting);

}  // namespace fedumm
