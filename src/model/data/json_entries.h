// Reads the objects of one array of a JSON file, one at a time, whatever the size of the file.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fedumm::model {

// An object: its integers and texts, and the objects of the one array in it that is asked for.
// Values of other kinds are there without their content.
class JsonEntry {
 public:
  using Value = std::variant<std::monostate, int64_t, std::string>;

  // INVALID_ARGUMENT, naming the field, if there is none or it is of another kind.
  absl::StatusOr<int64_t> Integer(std::string_view name) const;
  absl::StatusOr<std::string> Text(std::string_view name) const;
  const std::vector<JsonEntry>& items() const { return items_; }

 private:
  friend class JsonEntryReader;
  const Value* Find(std::string_view name) const;  // the last one of that name

  std::vector<std::pair<std::string, Value>> fields_;
  std::vector<JsonEntry> items_;
};

// Up to `size` bytes to `out`; fewer than that, and then 0, at the end.
using ByteSource = std::function<absl::StatusOr<size_t>(char* out, size_t size)>;

// Calls `use` with each object of the array `array` of the root object (empty: the root is the
// array itself) and keeps none of them. Of the array `items` in each object (empty: none) the
// objects are kept, too. The first error of `use` ends the reading. INVALID_ARGUMENT for what is no
// JSON or has no such array of objects, for an object of more than 256 fields or 65,536 items, for
// a text of more than 1 MiB and for nesting of more than 64 levels: memory does not grow with the
// source.
absl::Status ForEachJsonEntry(const ByteSource& source, std::string_view array,
                              std::string_view items,
                              const std::function<absl::Status(const JsonEntry&)>& use);
// The same for a file; its name is in each error. NOT_FOUND if there is none, RESOURCE_EXHAUSTED if
// it has more than 16 GiB.
absl::Status ForEachJsonEntry(const std::string& path, std::string_view array,
                              std::string_view items,
                              const std::function<absl::Status(const JsonEntry&)>& use);
// Calls `use` with the object on each line of a file; empty lines are skipped. Errors as above,
// with the name of the file and the number of the line.
absl::Status ForEachJsonLine(const std::string& path,
                             const std::function<absl::Status(const JsonEntry&)>& use);

}  // namespace fedumm::model
