#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/printable.h"
#include "base/text.h"

namespace fedumm {

// A name or text from a node, in quotes, as Printable shows it.
inline std::string Quoted(std::string_view text, size_t max_characters = kPrintableCharacters) {
  return absl::StrCat("'", Printable(Text(text), max_characters), "'");
}

}  // namespace fedumm
