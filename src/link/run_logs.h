#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>

#include "absl/time/time.h"

namespace fedumm::link {

// What the processes of hosted runs printed: the last megabyte of each run, and of the runs that
// printed last. Not thread-safe.
class RunLogs {
 public:
  // `now` is wall time; equal times are told apart.
  void Add(uint64_t run_id, std::string text, absl::Time now);
  struct Part {
    std::string text;
    double latest = 0;  // Unix seconds of the last line in it
  };
  // All that came later than `after` (Unix seconds).
  Part Read(uint64_t run_id, double after) const;

 private:
  struct Entry {
    double time = 0;
    std::string text;
  };
  struct Run {
    std::deque<Entry> entries;
    size_t num_bytes = 0;
  };

  std::map<uint64_t, Run> runs_;
  size_t num_bytes_ = 0;
};

}  // namespace fedumm::link
