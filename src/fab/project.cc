#include "fab/project.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/text.h"

// toml++ asserts what hostile text can break ("[.a]"), or lets the compiler assume it, and copes
// all the same: it is taken without its assertions, and under a name of its own, so that the linker
// cannot put another file's copy in its place.
#define TOML_EXCEPTIONS 0
#define TOML_ASSERT(expression) static_assert(true)
#define toml fab_toml
#undef NDEBUG  // with it, assertions become assumptions
#include <toml++/toml.h>
#undef toml

namespace fedumm::fab {
namespace {

constexpr int64_t kMaxDots = 2000;
constexpr size_t kMaxNameBytes = 200;

// The length of the text (TOML's strings, of all four kinds) that begins `toml`. -1 for a text that
// toml++ must not see.
int64_t TextLength(std::string_view toml) {
  const char quote = toml[0];
  const bool multi_line = toml.substr(0, 3) == std::string(3, quote);
  const std::string_view end = toml.substr(0, multi_line ? 3 : 1);
  size_t i = end.size();
  while (i < toml.size() && toml.substr(i, end.size()) != end) {
    if (!multi_line && toml[i] == '\n') return static_cast<int64_t>(i);  // an error: it has no end
    const bool escape = quote == '"' && toml[i] == '\\';
    ++i;
    if (!escape) continue;
    if (multi_line) {  // what follows the end of a line is looked at as if it were a blank
      const size_t next = std::min(toml.find_first_not_of(" \t\r\n", i), toml.size());
      if (toml.substr(next, 1) == "\xef") return -1;
      if (next > i) {
        i = next;
        continue;
      }
    }
    ++i;
  }
  i += end.size();
  // Up to two more quotes belong to a text that ends with them.
  for (int more = 0; multi_line && more < 2 && i < toml.size() && toml[i] == quote; ++more) ++i;
  return static_cast<int64_t>(std::min(i, toml.size()));
}

// toml++ 3.3 has two weak spots. Tables nest as deep as keys have dots, and are taken apart by
// recursion. And among the characters that it takes for blanks are some, from U+FC66 to U+FEFE, for
// which its behaviour is undefined; outside of texts and comments TOML has nothing beyond ASCII.
absl::Status CheckLexis(std::string_view toml) {
  int64_t dots = 0;
  size_t i = 0;
  while (i < toml.size()) {
    const char c = toml[i];
    int64_t length = 1;
    if (c == '#') {
      length = static_cast<int64_t>(std::min(toml.find('\n', i), toml.size()) - i);
    } else if (c == '"' || c == '\'') {
      length = TextLength(toml.substr(i));
    } else if (c == '.' && ++dots > kMaxDots) {
      return absl::InvalidArgumentError("app bundle: pyproject.toml has too many dotted keys");
    }
    if (length < 0 || static_cast<unsigned char>(c) >= 0x80) {
      return absl::InvalidArgumentError(
          absl::StrCat("app bundle: pyproject.toml has a strange character behind byte ", i));
    }
    i += length;
  }
  return absl::OkStatus();
}

// Ids, and with them paths, are made of these.
absl::Status CheckName(absl::string_view key, const std::string& name) {
  const bool plain = std::none_of(name.begin(), name.end(), [](unsigned char c) {
    return c <= ' ' || c == '/' || c == '\\' || c == 0x7f;
  });
  if (plain && !name.empty() && name.size() <= kMaxNameBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "app bundle: pyproject.toml: ", key, " cannot be part of a path: '", Printable(name), "'"));
}

absl::StatusOr<std::string> RequiredText(const fab_toml::table& root, const std::string& key) {
  const std::optional<std::string> text = root.at_path(key).value_exact<std::string>();
  if (text.has_value()) return *text;
  return absl::InvalidArgumentError(
      absl::StrCat("app bundle: pyproject.toml has no text under ", key));
}

absl::StatusOr<ConfigValue> ToConfigValue(const fab_toml::node& node, const std::string& key) {
  if (const auto* const value = node.as_integer()) return ConfigValue(value->get());
  if (const auto* const value = node.as_floating_point()) return ConfigValue(value->get());
  if (const auto* const value = node.as_boolean()) return ConfigValue(value->get());
  if (const auto* const value = node.as_string()) return ConfigValue(value->get());
  return absl::InvalidArgumentError(
      absl::StrCat("app bundle: pyproject.toml: tool.flwr.app.config.", Printable(key),
                   " is neither a number, a bool nor a text"));
}

absl::Status Flatten(const fab_toml::table& table, const std::string& prefix,
                     ConfigRecord& config) {
  for (const auto& [name, node] : table) {
    const std::string key = absl::StrCat(prefix, Text(name.str()));
    if (const fab_toml::table* const nested = node.as_table()) {
      FEDUMM_RETURN_IF_ERROR(Flatten(*nested, key + ".", config));
      continue;
    }
    if (config.contains(key)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "app bundle: pyproject.toml: tool.flwr.app.config.", Printable(key), " is there twice"));
    }
    FEDUMM_ASSIGN_OR_RETURN(ConfigValue value, ToConfigValue(node, key));
    config.Set(key, std::move(value));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Project> ParseProject(std::string_view toml) {
  FEDUMM_RETURN_IF_ERROR(CheckLexis(toml));
  const fab_toml::parse_result parsed = fab_toml::parse(toml);
  if (!parsed) {
    return absl::InvalidArgumentError(absl::StrCat("app bundle: pyproject.toml, line ",
                                                   parsed.error().source().begin.line, ": ",
                                                   Printable(Text(parsed.error().description()))));
  }
  const fab_toml::table& root = parsed.table();
  Project project;
  FEDUMM_ASSIGN_OR_RETURN(project.name, RequiredText(root, "project.name"));
  FEDUMM_ASSIGN_OR_RETURN(project.version, RequiredText(root, "project.version"));
  FEDUMM_ASSIGN_OR_RETURN(project.publisher, RequiredText(root, "tool.flwr.app.publisher"));
  FEDUMM_RETURN_IF_ERROR(CheckName("project.name", project.name));
  FEDUMM_RETURN_IF_ERROR(CheckName("project.version", project.version));
  FEDUMM_RETURN_IF_ERROR(CheckName("tool.flwr.app.publisher", project.publisher));
  // A Python node that is given a bundle without these ends for good.
  for (const char* const app : {"clientapp", "serverapp"}) {
    FEDUMM_RETURN_IF_ERROR(
        RequiredText(root, absl::StrCat("tool.flwr.app.components.", app)).status());
  }
  const fab_toml::node_view<const fab_toml::node> config = root.at_path("tool.flwr.app.config");
  if (!config) return project;
  if (!config.is_table()) {
    return absl::InvalidArgumentError(
        "app bundle: pyproject.toml: tool.flwr.app.config is no table");
  }
  FEDUMM_RETURN_IF_ERROR(Flatten(*config.as_table(), "", project.config));
  return project;
}

}  // namespace fedumm::fab
