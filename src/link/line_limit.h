#pragma once

#include <cstdint>
#include <map>
#include <optional>

#include "absl/time/time.h"

namespace fedumm::link {

// Bounds the lines that peers can cause in a log: at most `max_lines` in each `period` for one
// source. Not thread-safe.
class LineLimit {
 public:
  LineLimit(int max_lines, absl::Duration period) : max_lines_(max_lines), period_(period) {}

  // How many lines of that source were left out since its last one; nothing if this one is to be
  // left out, too.
  std::optional<int64_t> Admit(uint64_t source, absl::Time now) {
    if (sources_.size() >= kMaxSources) {
      std::erase_if(sources_, [&](const auto& item) { return now >= item.second.end; });
    }
    const auto it = sources_.find(source);
    if (it == sources_.end() && sources_.size() >= kMaxSources) return std::nullopt;
    Source& counted = it == sources_.end() ? sources_[source] : it->second;
    if (now >= counted.end) {
      counted.end = now + period_;
      counted.num_lines = 0;
    }
    if (counted.num_lines >= max_lines_) {
      ++counted.num_left_out;
      return std::nullopt;
    }
    ++counted.num_lines;
    const int64_t num_left_out = counted.num_left_out;
    counted.num_left_out = 0;
    return num_left_out;
  }

 private:
  static constexpr size_t kMaxSources = 1000;
  struct Source {
    absl::Time end = absl::InfinitePast();
    int num_lines = 0;
    int64_t num_left_out = 0;
  };

  const int max_lines_;
  const absl::Duration period_;
  std::map<uint64_t, Source> sources_;
};

}  // namespace fedumm::link
