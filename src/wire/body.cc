#include "wire/body.h"

#include <set>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "wire/json.h"
#include "wire/object.h"

namespace fedumm::wire {
namespace {

constexpr int64_t kMaxTypeBytes = 64;  // of a dtype or stype

absl::Status Malformed(const char* what) {
  return absl::InvalidArgumentError(absl::StrCat("malformed object body: ", what));
}

// Reads {"key": value, …}, calling `read_value(key)` at each value.
template <typename ReadValue>
absl::Status ReadObject(JsonReader& reader, const Limits& limits, ReadValue read_value) {
  if (!reader.Take('{')) return Malformed("no json object");
  if (!reader.Take('}')) {
    do {
      FEDUMM_ASSIGN_OR_RETURN(std::string key, reader.String(limits.max_key_bytes));
      if (!reader.Take(':')) return Malformed("no colon after a key");
      FEDUMM_RETURN_IF_ERROR(read_value(std::move(key)));
    } while (reader.Take(','));
    if (!reader.Take('}')) return Malformed("json object without an end");
  }
  return reader.End();
}

}  // namespace

std::string PrintArrayBody(const ArrayBody& body) {
  return absl::StrCat("{\"dtype\": ", QuoteJson(body.format.dtype), ", \"shape\": [",
                      absl::StrJoin(body.format.shape, ", "),
                      "], \"stype\": ", QuoteJson(body.format.stype), ", \"arraychunk_ids\": [",
                      absl::StrJoin(body.chunks, ", "), "]}");
}

absl::StatusOr<ArrayBody> ParseArrayBody(std::string_view json, const Limits& limits) {
  ArrayBody body;
  std::set<std::string> seen;
  JsonReader reader(json);
  FEDUMM_RETURN_IF_ERROR(ReadObject(reader, limits, [&](std::string key) -> absl::Status {
    if (!seen.insert(key).second) return Malformed("repeated key");
    if (key == "dtype") {
      FEDUMM_ASSIGN_OR_RETURN(body.format.dtype, reader.String(kMaxTypeBytes));
    } else if (key == "shape") {
      FEDUMM_ASSIGN_OR_RETURN(body.format.shape, reader.Integers(limits.max_array_dims));
    } else if (key == "stype") {
      FEDUMM_ASSIGN_OR_RETURN(body.format.stype, reader.String(kMaxTypeBytes));
    } else if (key == "arraychunk_ids") {
      FEDUMM_ASSIGN_OR_RETURN(body.chunks, reader.Integers(limits.max_list_values));
    } else {
      return Malformed("unknown key of an array");
    }
    return absl::OkStatus();
  }));
  if (seen.size() != 4) return Malformed("array lacks a key");
  return body;
}

std::string PrintIdMap(const IdMap& ids) {
  std::string json = "{";
  for (const auto& [name, id] : ids) {
    absl::StrAppend(&json, json.size() > 1 ? ", " : "", QuoteJson(name), ": \"", id, "\"");
  }
  return json + "}";
}

absl::StatusOr<IdMap> ParseIdMap(std::string_view json, const Limits& limits) {
  IdMap ids;
  std::set<std::string> names;
  JsonReader reader(json);
  FEDUMM_RETURN_IF_ERROR(ReadObject(reader, limits, [&](std::string name) -> absl::Status {
    if (static_cast<int64_t>(ids.size()) >= limits.max_record_items) {
      return absl::InvalidArgumentError(
          absl::StrCat("record has more than ", limits.max_record_items, " items"));
    }
    if (!names.insert(name).second) {
      return absl::InvalidArgumentError(absl::StrCat("repeated name in a record: ", name));
    }
    FEDUMM_ASSIGN_OR_RETURN(std::string id, reader.String(/*max_bytes=*/64));
    if (!IsObjectId(id)) return Malformed("no object id");
    ids.emplace_back(std::move(name), std::move(id));
    return absl::OkStatus();
  }));
  return ids;
}

}  // namespace fedumm::wire
