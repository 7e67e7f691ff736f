#include "fab/project.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/text.h"

// Malformed text ("[.a]") fails assertions of toml++, or breaks what NDEBUG lets the compiler
// assume, although the parser handles it. So it is compiled without both, and in a namespace of its
// own, so that the linker cannot replace it with another file's copy.
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

bool IsUtf8(std::string_view text) {
  constexpr uint32_t kLeast[] = {0, 0x80, 0x800, 0x10000};  // by continuation bytes
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i++]);
    if (lead < 0x80) continue;
    const size_t more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    if (lead < 0xc2 || lead > 0xf4 || text.size() - i < more) return false;
    uint32_t point = lead & (0x3fu >> more);
    for (const size_t end = i + more; i < end; ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      if ((byte & 0xc0) != 0x80) return false;
      point = point << 6 | (byte & 0x3fu);
    }
    if (point < kLeast[more] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) {
      return false;
    }
  }
  return true;
}

// toml++ 3.3 has undefined behaviour on many non-ASCII characters where blanks are allowed. So each
// byte of them, and of "~", is encoded as "~" with two hex digits.
std::string Mask(std::string_view text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string masked;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80 && c != '~') {
      masked += c;
    } else {
      masked += {'~', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return masked;
}
absl::StatusOr<std::string> Unmask(std::string_view masked) {
  std::string text;
  for (size_t i = 0; i < masked.size(); ++i) {
    if (masked[i] != '~') {
      text += masked[i];
      continue;
    }
    const std::string_view digits = masked.substr(i + 1, 2);
    const bool hex = digits.size() == 2 && absl::ascii_isxdigit(digits[0]) != 0 &&
                     absl::ascii_isxdigit(digits[1]) != 0;
    if (!hex) {  // a "~" that was written as an escape
      text += masked[i];
      continue;
    }
    text += absl::HexStringToBytes(Text(digits));
    i += 2;
  }
  if (IsUtf8(text)) return text;
  return absl::InvalidArgumentError("app bundle: pyproject.toml has a text that is not UTF-8");
}

// The length of the TOML string (of all four kinds) at the start of `toml`.
size_t TextLength(std::string_view toml) {
  const char quote = toml[0];
  const bool multi_line = toml.substr(0, 3) == std::string(3, quote);
  const std::string_view end = toml.substr(0, multi_line ? 3 : 1);
  size_t i = end.size();
  for (; i < toml.size() && toml.substr(i, end.size()) != end; ++i) {
    if (!multi_line && toml[i] == '\n') return i;  // an error: it has no end
    if (quote == '"' && toml[i] == '\\') ++i;
  }
  i += end.size();
  // A string may end with up to two more quotes.
  for (int more = 0; multi_line && more < 2 && i < toml.size() && toml[i] == quote; ++more) ++i;
  return std::min(i, toml.size());
}

// The number of dots outside of strings and comments. It bounds how deep tables can nest, which
// toml++ parses by recursion.
int64_t CountDots(std::string_view toml) {
  int64_t dots = 0;
  for (size_t i = 0; i < toml.size();) {
    const char c = toml[i];
    if (c == '#') {
      i = std::min(toml.find('\n', i), toml.size());
    } else if (c == '"' || c == '\'') {
      i += TextLength(toml.substr(i));
    } else {
      dots += c == '.' ? 1 : 0;
      ++i;
    }
  }
  return dots;
}

// Whether it can be a part of an app id, and so of a path.
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
  if (text.has_value()) return Unmask(*text);
  return absl::InvalidArgumentError(
      absl::StrCat("app bundle: pyproject.toml has no text under ", key));
}

absl::StatusOr<ConfigValue> ToConfigValue(const fab_toml::node& node, const std::string& key) {
  if (const auto* const value = node.as_integer()) return ConfigValue(value->get());
  if (const auto* const value = node.as_floating_point()) return ConfigValue(value->get());
  if (const auto* const value = node.as_boolean()) return ConfigValue(value->get());
  if (const auto* const value = node.as_string()) {
    FEDUMM_ASSIGN_OR_RETURN(std::string text, Unmask(value->get()));
    return ConfigValue(std::move(text));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("app bundle: pyproject.toml: tool.flwr.app.config.", Printable(key),
                   " is neither a number, a bool nor a text"));
}

absl::Status Flatten(const fab_toml::table& table, const std::string& prefix,
                     ConfigRecord& config) {
  for (const auto& [name, node] : table) {
    FEDUMM_ASSIGN_OR_RETURN(const std::string own_key, Unmask(name.str()));
    const std::string key = absl::StrCat(prefix, own_key);
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
  if (!IsUtf8(toml)) return absl::InvalidArgumentError("app bundle: pyproject.toml is not UTF-8");
  if (CountDots(toml) > kMaxDots) {
    return absl::InvalidArgumentError("app bundle: pyproject.toml has too many dotted keys");
  }
  const fab_toml::parse_result parsed = fab_toml::parse(Mask(toml));
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
  // A Python node exits on a bundle without these.
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
