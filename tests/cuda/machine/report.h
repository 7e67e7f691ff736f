// Collects violations, each kind once a source line.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <tuple>

#include "tests/cuda/machine/machine.h"

namespace fedumm::cuda_machine {

class Reporter {
 public:
  // `site` identifies the source line; `where` is printed.
  void Add(Kind kind, const std::string& site, const std::string& where, const std::string& text) {
    ++report_.count;
    if (!seen_.emplace(kind, site, text.substr(0, text.find(':'))).second) return;
    if (report_.violations.size() < 100) report_.violations.push_back({kind, where, text});
  }
  uint64_t count() const { return report_.count; }
  Report Take() {
    Report out;
    std::swap(out, report_);
    seen_.clear();
    return out;
  }

 private:
  Report report_;
  std::set<std::tuple<Kind, std::string, std::string>> seen_;
};

}  // namespace fedumm::cuda_machine
