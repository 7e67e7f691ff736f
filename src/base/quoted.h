#pragma once

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/text.h"

namespace fedumm {

// A name or text from a node, fit for a log line: in quotes, escaped and cut.
inline std::string Quoted(std::string_view text) {
  return absl::StrCat("'", Printable(Text(text)), "'");
}

}  // namespace fedumm
