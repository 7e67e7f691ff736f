#pragma once

#include <string>
#include <string_view>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/text.h"

namespace fedumm {

// A name from a node, fit for a log line: in quotes, escaped, cut to 200 bytes.
inline std::string Quoted(std::string_view name) {
  return absl::StrCat("'", absl::CHexEscape(Text(name.substr(0, 200))), "'");
}

}  // namespace fedumm
