#include "wire/object.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace fedumm::wire {
namespace {

constexpr size_t kIdSize = 64;

struct TypeRule {
  std::string_view type;
  int64_t max_children;
};
constexpr TypeRule kTypes[] = {
    {"ArrayChunk", 0},   {"Array", INT64_MAX}, {"ArrayRecord", INT64_MAX},
    {"ConfigRecord", 0}, {"MetricRecord", 0},  {"RecordDict", INT64_MAX},
    {"Message", 1},
};

absl::Status Malformed(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("malformed object: ", what));
}

absl::Status ParseChildren(std::string_view text, int64_t max_children, ObjectView& view) {
  if (text.empty()) return absl::OkStatus();
  // n ids and the commas between them
  const size_t count = (text.size() + 1) / (kIdSize + 1);
  if ((text.size() + 1) % (kIdSize + 1) != 0) return Malformed("bad list of children");
  if (static_cast<int64_t>(count) > max_children) {
    return Malformed(absl::StrCat(count, " children, limit ", max_children));
  }
  view.children.reserve(count);
  for (size_t at = 0; at < text.size(); at += kIdSize + 1) {
    if (at > 0 && text[at - 1] != ',') return Malformed("bad list of children");
    const std::string_view id = text.substr(at, kIdSize);
    if (!IsObjectId(id)) return Malformed("a child is no object id");
    view.children.push_back(id);
  }
  std::vector<std::string_view> sorted = view.children;
  std::ranges::sort(sorted);
  if (std::ranges::adjacent_find(sorted) != sorted.end()) return Malformed("repeated child");
  return absl::OkStatus();
}

size_t VarintBytes(uint64_t number) {
  size_t num_bytes = 1;
  while (number >>= 7) ++num_bytes;
  return num_bytes;
}

// About as many bytes as a value takes in an object, and not more.
struct ValueBytes {
  size_t operator()(double /*value*/) const { return sizeof(double); }
  size_t operator()(int64_t value) const {  // sint64: zigzag
    return VarintBytes((static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63));
  }
  size_t operator()(uint64_t value) const { return VarintBytes(value); }
  size_t operator()(bool /*value*/) const { return 1; }
  size_t operator()(const std::string& value) const { return value.size(); }
  size_t operator()(const Bytes& value) const { return value.value.size(); }
  template <typename T>
  size_t operator()(const std::vector<T>& values) const {
    size_t num_bytes = 0;
    for (const T& value : values) num_bytes += (*this)(value);
    return num_bytes;
  }
};

struct RecordBytes {
  size_t operator()(const ArrayRecord& /*in chunks*/) const { return 0; }
  template <typename Value>
  size_t operator()(const Record<Value>& record) const {
    size_t num_bytes = 0;
    for (const auto& [key, value] : record) {
      num_bytes += key.size() + std::visit(ValueBytes(), value);
    }
    return num_bytes;
  }
};

}  // namespace

absl::Status CheckRecordSizes(const Message& message, const Limits& limits) {
  if (!message.content.has_value()) return absl::OkStatus();
  for (const auto& [name, record] : *message.content) {
    const size_t num_bytes = std::visit(RecordBytes(), record);
    if (num_bytes <= static_cast<size_t>(limits.max_object_bytes)) continue;
    return absl::InvalidArgumentError(absl::StrCat("record '", name, "' has ", num_bytes,
                                                   " bytes, limit ", limits.max_object_bytes));
  }
  return absl::OkStatus();
}

bool IsObjectId(std::string_view id) {
  return id.size() == kIdSize && std::ranges::all_of(id, [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

std::string FormatObject(std::string_view type, const std::vector<std::string>& children,
                         std::string_view body) {
  return absl::StrCat(Text(type), " ", absl::StrJoin(children, ","), " ", body.size(),
                      absl::string_view("\0", 1), Text(body));
}

absl::StatusOr<ObjectView> ParseObject(std::string_view bytes, const Limits& limits) {
  if (static_cast<int64_t>(bytes.size()) > limits.max_object_bytes) {
    return Malformed(absl::StrCat(bytes.size(), " bytes, limit ", limits.max_object_bytes));
  }
  const size_t end = bytes.find('\0');
  if (end == std::string_view::npos) return Malformed("no header");
  if (static_cast<int64_t>(end) > limits.max_header_bytes) {
    return Malformed(absl::StrCat("header of ", end, " bytes, limit ", limits.max_header_bytes));
  }
  const std::string_view header = bytes.substr(0, end);
  const size_t first_space = header.find(' ');
  const size_t last_space = header.rfind(' ');
  if (first_space == last_space) return Malformed("header has not three parts");

  ObjectView view;
  view.type = header.substr(0, first_space);
  view.body = bytes.substr(end + 1);
  const auto* rule = std::ranges::find(kTypes, view.type, &TypeRule::type);
  if (rule == std::end(kTypes)) return Malformed("unknown type");
  // Compared as text: there is one way to write a length.
  if (header.substr(last_space + 1) != std::to_string(view.body.size())) {
    return Malformed(absl::StrCat("announced length is not ", view.body.size()));
  }
  FEDUMM_RETURN_IF_ERROR(ParseChildren(header.substr(first_space + 1, last_space - first_space - 1),
                                       std::min(rule->max_children, limits.max_objects_per_message),
                                       view));
  return view;
}

absl::StatusOr<std::vector<std::string>> TreeIds(const flwr::proto::ObjectTree& tree,
                                                 const Limits& limits) {
  struct Level {
    const flwr::proto::ObjectTree& node;
    int next_child = 0;
  };
  std::vector<std::string> ids;
  std::set<std::string_view> seen;
  std::vector<Level> path;
  int64_t num_nodes = 0;
  const auto enter = [&](const flwr::proto::ObjectTree& node) -> absl::Status {
    if (++num_nodes > limits.max_objects_per_message) {
      return absl::InvalidArgumentError(
          absl::StrCat("object tree has more than ", limits.max_objects_per_message, " nodes"));
    }
    if (static_cast<int64_t>(path.size()) >= limits.max_tree_depth) {
      return absl::InvalidArgumentError(
          absl::StrCat("object tree is deeper than ", limits.max_tree_depth));
    }
    if (!IsObjectId(node.object_id())) {
      return absl::InvalidArgumentError("object tree names no object id");
    }
    path.push_back({node});
    return absl::OkStatus();
  };
  FEDUMM_RETURN_IF_ERROR(enter(tree));
  while (!path.empty()) {
    Level& level = path.back();
    if (level.next_child < level.node.children_size()) {
      FEDUMM_RETURN_IF_ERROR(enter(level.node.children(level.next_child++)));
      continue;
    }
    if (seen.insert(level.node.object_id()).second) ids.push_back(level.node.object_id());
    path.pop_back();
  }
  return ids;
}

}  // namespace fedumm::wire
