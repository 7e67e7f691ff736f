#include "wire/json.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"

namespace fedumm::wire {
namespace {

constexpr uint32_t kReplacement = 0xFFFD;

absl::Status Malformed(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("malformed json: ", what));
}

// A code point and how many bytes it took; `ok` is false, and `size` 1, for what is no UTF-8
// (overlong forms and surrogates included).
struct CodePoint {
  uint32_t value = kReplacement;
  size_t size = 1;
  bool ok = false;
};

CodePoint DecodeUtf8(std::string_view text) {
  const auto byte = [text](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return {first, 1, true};
  size_t size;
  uint32_t smallest;
  uint32_t value;
  if ((first & 0xE0) == 0xC0) {
    size = 2, smallest = 0x80, value = first & 0x1F;
  } else if ((first & 0xF0) == 0xE0) {
    size = 3, smallest = 0x800, value = first & 0x0F;
  } else if ((first & 0xF8) == 0xF0) {
    size = 4, smallest = 0x10000, value = first & 0x07;
  } else {
    return {};
  }
  if (text.size() < size) return {};
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {};
    value = value << 6 | (byte(i) & 0x3F);
  }
  if (value < smallest || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) return {};
  return {value, size, true};
}

void AppendUtf8(uint32_t value, std::string& result) {
  const auto continuation = [value](int shift) {
    return static_cast<char>(0x80 | (value >> shift & 0x3F));
  };
  if (value < 0x80) {
    result += static_cast<char>(value);
  } else if (value < 0x800) {
    result += static_cast<char>(0xC0 | value >> 6);
    result += continuation(0);
  } else if (value < 0x10000) {
    result += static_cast<char>(0xE0 | value >> 12);
    result += continuation(6);
    result += continuation(0);
  } else {
    result += static_cast<char>(0xF0 | value >> 18);
    result += continuation(12);
    result += continuation(6);
    result += continuation(0);
  }
}

void AppendUnit(uint32_t unit, std::string& result) {
  absl::StrAppend(&result, "\\u", absl::Hex(unit, absl::kZeroPad4));
}

void AppendQuoted(uint32_t value, std::string& result) {
  switch (value) {
    case '"':
      result += "\\\"";
      return;
    case '\\':
      result += "\\\\";
      return;
    case '\n':
      result += "\\n";
      return;
    case '\r':
      result += "\\r";
      return;
    case '\t':
      result += "\\t";
      return;
    case '\f':
      result += "\\f";
      return;
    case '\b':
      result += "\\b";
      return;
    default:
      break;
  }
  if (value >= ' ' && value <= '~') {
    result += static_cast<char>(value);
  } else if (value < 0x10000) {
    AppendUnit(value, result);
  } else {
    AppendUnit(0xD800 | (value - 0x10000) >> 10, result);
    AppendUnit(0xDC00 | ((value - 0x10000) & 0x3FF), result);
  }
}

}  // namespace

std::string QuoteJson(std::string_view text) {
  std::string result = "\"";
  while (!text.empty()) {
    const CodePoint point = DecodeUtf8(text);
    AppendQuoted(point.value, result);
    text.remove_prefix(point.size);
  }
  result += '"';
  return result;
}

void JsonReader::SkipSpace() {
  const size_t begin = rest_.find_first_not_of(" \t\r\n");
  rest_.remove_prefix(begin == std::string_view::npos ? rest_.size() : begin);
}

bool JsonReader::Take(char token) {
  SkipSpace();
  if (rest_.empty() || rest_[0] != token) return false;
  rest_.remove_prefix(1);
  return true;
}

absl::Status JsonReader::End() {
  SkipSpace();
  return rest_.empty() ? absl::OkStatus() : Malformed("text after the end");
}

absl::StatusOr<std::string> JsonReader::String(int64_t max_bytes) {
  if (!Take('"')) return Malformed("no string");
  std::string result;
  while (true) {
    if (rest_.empty()) return Malformed("string without an end");
    if (static_cast<int64_t>(result.size()) > max_bytes) {
      return Malformed(absl::StrCat("string is longer than ", max_bytes, " bytes"));
    }
    if (rest_[0] == '"') {
      rest_.remove_prefix(1);
      return result;
    }
    if (rest_[0] == '\\') {
      FEDUMM_RETURN_IF_ERROR(TakeEscape(result));
      continue;
    }
    const CodePoint point = DecodeUtf8(rest_);
    if (!point.ok || point.value < ' ') return Malformed("string is no text");
    result.append(rest_.substr(0, point.size));
    rest_.remove_prefix(point.size);
  }
}

absl::Status JsonReader::TakeEscape(std::string& result) {
  constexpr std::string_view kLetters = "\"\\/nrtfb";
  constexpr std::string_view kMeanings = "\"\\/\n\r\t\f\b";
  if (rest_.size() < 2) return Malformed("string without an end");
  const char letter = rest_[1];
  rest_.remove_prefix(2);
  if (const size_t i = kLetters.find(letter); i != std::string_view::npos) {
    result += kMeanings[i];
    return absl::OkStatus();
  }
  if (letter != 'u') return Malformed("unknown escape");
  FEDUMM_ASSIGN_OR_RETURN(uint32_t value, FourHexDigits());
  if (value >= 0xD800 && value <= 0xDFFF) {
    if (value >= 0xDC00 || rest_.substr(0, 2) != "\\u") return Malformed("unpaired surrogate");
    rest_.remove_prefix(2);
    FEDUMM_ASSIGN_OR_RETURN(const uint32_t low, FourHexDigits());
    if (low < 0xDC00 || low > 0xDFFF) return Malformed("unpaired surrogate");
    value = 0x10000 + ((value & 0x3FF) << 10 | (low & 0x3FF));
  }
  AppendUtf8(value, result);
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> JsonReader::FourHexDigits() {
  if (rest_.size() < 4) return Malformed("truncated escape");
  uint32_t value = 0;
  for (const char c : rest_.substr(0, 4)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) return Malformed("bad escape");
    value = value << 4 | static_cast<uint32_t>(digit);
  }
  rest_.remove_prefix(4);
  return value;
}

absl::StatusOr<int64_t> JsonReader::Integer() {
  SkipSpace();
  int64_t value = 0;
  size_t digits = 0;
  for (; digits < rest_.size() && rest_[digits] >= '0' && rest_[digits] <= '9'; ++digits) {
    if (__builtin_mul_overflow(value, int64_t{10}, &value) ||
        __builtin_add_overflow(value, int64_t{rest_[digits] - '0'}, &value)) {
      return Malformed("number beyond 64 bits");
    }
  }
  if (digits == 0 || (digits > 1 && rest_[0] == '0')) return Malformed("no plain number");
  rest_.remove_prefix(digits);
  return value;
}

absl::StatusOr<std::vector<int64_t>> JsonReader::Integers(int64_t max_values) {
  if (!Take('[')) return Malformed("no list");
  std::vector<int64_t> values;
  if (Take(']')) return values;
  do {
    if (static_cast<int64_t>(values.size()) >= max_values) {
      return Malformed(absl::StrCat("list has more than ", max_values, " values"));
    }
    FEDUMM_ASSIGN_OR_RETURN(const int64_t value, Integer());
    values.push_back(value);
  } while (Take(','));
  if (!Take(']')) return Malformed("list without an end");
  return values;
}

}  // namespace fedumm::wire
