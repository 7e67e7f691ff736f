#include "model/data/utf8.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "absl/strings/str_cat.h"

namespace fedumm::model {
namespace {

const utf8proc_uint8_t* Bytes(std::string_view text) {
  return reinterpret_cast<const utf8proc_uint8_t*>(text.data());
}

// The character at the front of `text`, or -1; `length` is what to skip: for a bad sequence, the
// bytes that could have begun a character.
char32_t Next(std::string_view text, size_t& length) {
  utf8proc_int32_t c = 0;
  const utf8proc_ssize_t n =
      utf8proc_iterate(Bytes(text), static_cast<utf8proc_ssize_t>(text.size()), &c);
  if (n > 0) {
    length = static_cast<size_t>(n);
    return static_cast<char32_t>(c);
  }
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  const size_t wanted = first >= 0xf0 && first <= 0xf4 ? 4 : first >= 0xe0 ? 3 : 1;
  length = 1;
  if (wanted == 1 || first > 0xf4 || text.size() < 2) return U'\ufffd';
  // The second byte has a narrower range after some first bytes: no overlong forms, no surrogates.
  const uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  if (byte(1) < low || byte(1) > high) return U'\ufffd';
  length = 2;
  while (length < std::min(wanted, text.size()) && (byte(length) & 0xc0) == 0x80) ++length;
  return U'\ufffd';
}

}  // namespace

bool IsUtf8(std::string_view text) {
  utf8proc_ssize_t n = 0;
  for (; !text.empty(); text.remove_prefix(static_cast<size_t>(n))) {
    utf8proc_int32_t c = 0;
    n = utf8proc_iterate(Bytes(text), static_cast<utf8proc_ssize_t>(text.size()), &c);
    if (n <= 0) return false;
  }
  return true;
}

std::u32string DecodeUtf8(std::string_view text) {
  std::u32string result;
  size_t length = 0;
  for (; !text.empty(); text.remove_prefix(length)) result.push_back(Next(text, length));
  return result;
}

std::string EncodeUtf8(std::u32string_view text) {
  std::string result;
  for (const char32_t c : text) {
    utf8proc_uint8_t bytes[4];
    const utf8proc_ssize_t length = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes);
    result.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(length));
  }
  return result;
}

absl::StatusOr<std::string> Nfc(std::string_view text) {
  if (std::ranges::all_of(text, [](char c) { return static_cast<uint8_t>(c) < 0x80; })) {
    return std::string(text);
  }
  utf8proc_uint8_t* composed = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(Bytes(text), static_cast<utf8proc_ssize_t>(text.size()), &composed,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owner(composed, std::free);
  if (length < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot normalise text: ", utf8proc_errmsg(length)));
  }
  return std::string(reinterpret_cast<const char*>(composed), static_cast<size_t>(length));
}

}  // namespace fedumm::model
