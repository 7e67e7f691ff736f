#pragma once

#include <memory>

#include "base/printable.h"
#include "spdlog/spdlog.h"

namespace fedumm {

// The logger named "fedumm" if the program made one, else the program's default.
inline std::shared_ptr<spdlog::logger> Log() {
  std::shared_ptr<spdlog::logger> logger = spdlog::get("fedumm");
  return logger != nullptr ? logger : spdlog::default_logger();
}

}  // namespace fedumm
