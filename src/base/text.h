#pragma once

#include <string_view>

#include "absl/strings/string_view.h"

namespace fedumm {

// `text` for Abseil's string functions: the distributions build Abseil with a string_view of its
// own, which does not convert.
inline absl::string_view Text(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace fedumm
