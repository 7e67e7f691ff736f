// The JSON files beside a pixel decoder's weights.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace fedumm::model {

// Reads the typed fields of one config as diffusers writes it, where null is as good as absent. The
// first failure sticks and names file and field; what is read after it is a default. A field that
// nobody asked for is a failure too unless it says null or false: its effect is not known.
class ConfigReader {
 public:
  // `where` is the file's name for errors.
  ConfigReader(std::string_view json, std::string where);

  // `absent` is the value of a missing field; without one the field must be there.
  int64_t Integer(const char* name, int64_t low, int64_t high,
                  std::optional<int64_t> absent = std::nullopt);
  double Number(const char* name, double low, double high,
                std::optional<double> absent = std::nullopt);
  bool Flag(const char* name, bool absent);
  // A list of `count` integers, or one integer that stands for all.
  std::vector<int64_t> Integers(const char* name, size_t count, int64_t low, int64_t high);
  // How long the list `name` is, in 1..most.
  size_t Length(const char* name, size_t most);
  // A list of `count` names out of `allowed`: the index of each.
  std::vector<size_t> Choices(const char* name, size_t count,
                              std::initializer_list<std::string_view> allowed);
  // A field that may be absent, but must not say anything else than one of `allowed`.
  void Only(const char* name, std::initializer_list<nlohmann::json> allowed);
  bool Missing(const char* name) { return Find(name, /*required=*/false) == nullptr; }
  // A field that has no effect on what is computed.
  void Ignore(const char* name) { known_.insert(name); }
  // Fails at field `name` unless `holds`.
  void Require(bool holds, const char* name, std::string_view otherwise);

  absl::Status Finish();

 private:
  const nlohmann::json* Find(const char* name, bool required);
  void Fail(std::string_view name, std::string_view what);

  std::string where_;
  nlohmann::json object_;
  std::set<std::string, std::less<>> known_;
  absl::Status status_;
};

}  // namespace fedumm::model
