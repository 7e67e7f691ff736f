#include "base/printable.h"

#include <cstdint>

#include "absl/strings/str_format.h"

namespace fedumm {
namespace {

// One character of UTF-8, or one byte that is none.
struct Character {
  uint32_t code = 0;
  size_t num_bytes = 1;
  bool valid = false;
};

Character FirstOf(absl::string_view text) {
  const auto byte = [text](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  size_t num_bytes = 0;
  uint32_t lowest = 0;  // of what needs that many bytes
  uint32_t code = 0;
  if ((lead & 0xe0) == 0xc0) {
    num_bytes = 2, lowest = 0x80, code = lead & 0x1f;
  } else if ((lead & 0xf0) == 0xe0) {
    num_bytes = 3, lowest = 0x800, code = lead & 0x0f;
  } else if ((lead & 0xf8) == 0xf0) {
    num_bytes = 4, lowest = 0x10000, code = lead & 0x07;
  }
  if (num_bytes == 0 || num_bytes > text.size()) return {};
  for (size_t i = 1; i < num_bytes; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {};
    code = code << 6 | (byte(i) & 0x3f);
  }
  const bool is_surrogate = code >= 0xd800 && code <= 0xdfff;
  if (code < lowest || code > 0x10ffff || is_surrogate) return {};
  return {code, num_bytes, true};
}

bool IsControl(uint32_t code) {
  return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x2028 || code == 0x2029;
}

// Marks, embeddings, overrides and isolates of the bidirectional algorithm.
bool ChangesDirection(uint32_t code) {
  return code == 0x061c || code == 0x200e || code == 0x200f || (code >= 0x202a && code <= 0x202e) ||
         (code >= 0x2066 && code <= 0x2069);
}

std::string Escape(uint32_t code) {
  switch (code) {
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      return code < 0x80 ? absl::StrFormat("\\x%02x", code) : absl::StrFormat("\\u%04x", code);
  }
}

}  // namespace

std::string Printable(absl::string_view text, size_t max_characters) {
  std::string result;
  for (size_t n = 0; !text.empty(); ++n) {
    if (n == max_characters) return result + "...";
    const Character next = FirstOf(text);
    if (!next.valid) {
      result += absl::StrFormat("\\x%02x", static_cast<unsigned char>(text[0]));
    } else if (IsControl(next.code) || ChangesDirection(next.code)) {
      result += Escape(next.code);
    } else {
      result.append(text.data(), next.num_bytes);
    }
    text.remove_prefix(next.num_bytes);
  }
  return result;
}

std::string ValidUtf8(absl::string_view text, size_t max_characters) {
  std::string result;
  for (size_t n = 0; n < max_characters && !text.empty(); ++n) {
    const Character next = FirstOf(text);
    if (next.valid) {
      result.append(text.data(), next.num_bytes);
    } else {
      result += "\xef\xbf\xbd";
    }
    text.remove_prefix(next.num_bytes);
  }
  return result;
}

}  // namespace fedumm
