// Text from users and peers, fit for a terminal or a log line.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace fedumm {

inline constexpr size_t kPrintableCharacters = 200;

// `text` as one line. Valid UTF-8 stays as it is. Escaped are control characters (C0, DEL, C1, and
// so the escape sequences of terminals), line and paragraph separators, characters that change the
// direction of text, and bytes that are not UTF-8. At most `max_characters` characters of `text`
// are shown; "..." follows where it was cut. What this returned passes unchanged through it again
// (except for the cut), so a text may go through it more than once.
std::string Printable(absl::string_view text, size_t max_characters = kPrintableCharacters);

// `text` as valid UTF-8, which Protobuf's strings must be: bytes that are not UTF-8 become U+FFFD,
// all else stays as it is. At most `max_characters`, cut between two characters.
std::string ValidUtf8(absl::string_view text, size_t max_characters);

}  // namespace fedumm
