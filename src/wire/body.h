// The JSON bodies of Array and record objects: printed byte for byte as Python's json.dumps does,
// read strictly.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/limits.h"
#include "wire/array_format.h"

namespace fedumm::wire {

// {"dtype": …, "shape": […], "stype": …, "arraychunk_ids": […]}
struct ArrayBody {
  ArrayFormat format;
  std::vector<int64_t> chunks;  // for each chunk in order, its place in the object's child list
  friend bool operator==(const ArrayBody&, const ArrayBody&) = default;
};

std::string PrintArrayBody(const ArrayBody& body);
absl::StatusOr<ArrayBody> ParseArrayBody(std::string_view json, const Limits& limits);

// {name: object id, …} in order.
using IdMap = std::vector<std::pair<std::string, std::string>>;

std::string PrintIdMap(const IdMap& ids);
// INVALID_ARGUMENT for a repeated name too.
absl::StatusOr<IdMap> ParseIdMap(std::string_view json, const Limits& limits);

}  // namespace fedumm::wire
