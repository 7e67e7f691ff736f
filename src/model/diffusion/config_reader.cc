#include "model/diffusion/config_reader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace fedumm::model {
namespace {

using Json = nlohmann::json;

// A nested value is not printed: that would recurse as deep as a hostile file nests.
std::string ShownValue(const Json& value) {
  if (value.is_structured()) return "a list or object";
  return value.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 100);
}

}  // namespace

ConfigReader::ConfigReader(std::string_view json, std::string where) : where_(std::move(where)) {
  object_ = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (object_.is_object()) return;
  status_ = absl::InvalidArgumentError(absl::StrCat(where_, " is not a JSON object"));
  object_ = Json::object();
}

const Json* ConfigReader::Find(const char* name, bool required) {
  known_.insert(name);
  const auto found = object_.find(name);
  if (found != object_.end() && !found->is_null()) return &*found;
  if (required) Fail(name, "is missing");
  return nullptr;
}

void ConfigReader::Fail(std::string_view name, std::string_view what) {
  if (!status_.ok()) return;
  status_ = absl::InvalidArgumentError(
      absl::StrCat(where_, ": ", absl::Utf8SafeCHexEscape(std::string(name.substr(0, 100))), " ",
                   std::string(what)));
}

int64_t ConfigReader::Integer(const char* name, int64_t low, int64_t high,
                              std::optional<int64_t> absent) {
  const Json* const field = Find(name, !absent.has_value());
  if (field == nullptr) return absent.value_or(low);
  if (field->is_number_integer() && *field >= low && *field <= high) return field->get<int64_t>();
  Fail(name, absl::StrCat("is ", ShownValue(*field), ", not an integer in ", low, "..", high));
  return low;
}

double ConfigReader::Number(const char* name, double low, double high,
                            std::optional<double> absent) {
  const Json* const field = Find(name, !absent.has_value());
  if (field == nullptr) return absent.value_or(low);
  if (field->is_number() && field->get<double>() >= low && field->get<double>() <= high) {
    return field->get<double>();
  }
  Fail(name, absl::StrCat("is ", ShownValue(*field), ", not a number in ", low, "..", high));
  return low;
}

bool ConfigReader::Flag(const char* name, bool absent) {
  const Json* const field = Find(name, /*required=*/false);
  if (field == nullptr) return absent;
  if (field->is_boolean()) return field->get<bool>();
  Fail(name, "is not true or false");
  return absent;
}

std::vector<int64_t> ConfigReader::Integers(const char* name, size_t count, int64_t low,
                                            int64_t high) {
  const Json* const field = Find(name, /*required=*/true);
  if (field != nullptr && !field->is_array()) {
    return std::vector<int64_t>(count, Integer(name, low, high));
  }
  std::vector<int64_t> values(count, low);
  if (field == nullptr) return values;
  if (field->size() != count) {
    Fail(name, absl::StrCat("has ", field->size(), " entries, not ", count));
    return values;
  }
  for (size_t i = 0; i < count; ++i) {
    const Json& item = (*field)[i];
    if (!item.is_number_integer() || item < low || item > high) {
      Fail(name, absl::StrCat("holds ", ShownValue(item), ", not an integer in ", low, "..", high));
      return values;
    }
    values[i] = item.get<int64_t>();
  }
  return values;
}

size_t ConfigReader::Length(const char* name, size_t most) {
  const Json* const field = Find(name, /*required=*/true);
  if (field == nullptr) return 1;
  if (field->is_array() && !field->empty() && field->size() <= most) return field->size();
  Fail(name, absl::StrCat("is not a list of 1 to ", most, " entries"));
  return 1;
}

std::vector<size_t> ConfigReader::Choices(const char* name, size_t count,
                                          std::initializer_list<std::string_view> allowed) {
  std::vector<size_t> values(count, 0);
  const Json* const field = Find(name, /*required=*/true);
  if (field == nullptr) return values;
  if (!field->is_array() || field->size() != count) {
    Fail(name, absl::StrCat("is not a list of ", count, " names"));
    return values;
  }
  for (size_t i = 0; i < count; ++i) {
    const Json& item = (*field)[i];
    const auto found = std::find_if(allowed.begin(), allowed.end(),
                                    [&](std::string_view choice) { return item == choice; });
    if (found == allowed.end()) {
      Fail(name, absl::StrCat("holds ", ShownValue(item), ", which is not supported"));
      return values;
    }
    values[i] = static_cast<size_t>(found - allowed.begin());
  }
  return values;
}

void ConfigReader::Only(const char* name, std::initializer_list<Json> allowed) {
  const Json* const field = Find(name, /*required=*/false);
  if (field == nullptr || std::find(allowed.begin(), allowed.end(), *field) != allowed.end()) {
    return;
  }
  Fail(name, absl::StrCat("is ", ShownValue(*field), ", which is not supported"));
}

void ConfigReader::Require(bool holds, const char* name, std::string_view otherwise) {
  if (!holds) Fail(name, otherwise);
}

absl::Status ConfigReader::Finish() {
  for (const auto& [name, value] : object_.items()) {
    // Names with an underscore say who wrote the file.
    if (name.starts_with('_') || known_.contains(name) || value.is_null() || value == false) {
      continue;
    }
    Fail(name, "is not a field that is known here");
  }
  return status_;
}

}  // namespace fedumm::model
