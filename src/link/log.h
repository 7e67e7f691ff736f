#pragma once

#include <memory>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "spdlog/spdlog.h"

namespace fedumm::link {

// The logger named "fedumm" if the program made one, else the program's default.
inline std::shared_ptr<spdlog::logger> Log() {
  std::shared_ptr<spdlog::logger> logger = spdlog::get("fedumm");
  return logger != nullptr ? logger : spdlog::default_logger();
}

// Text from a peer, fit for a log line: escaped, and cut where it is long.
inline std::string Printable(absl::string_view text) {
  constexpr size_t kLongest = 200;
  return absl::CHexEscape(text.substr(0, kLongest)) + (text.size() > kLongest ? "..." : "");
}

}  // namespace fedumm::link
