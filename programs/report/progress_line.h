#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace fedumm::programs {

// One line on stderr that tells how far long work is and when it will be done. Nothing is printed
// where stderr is no terminal. Not thread-safe.
class ProgressLine {
 public:
  ProgressLine(std::string what, int64_t total, std::string unit);
  ~ProgressLine() { End(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // At most ten times a second, and at the end.
  void Show(int64_t done);
  // Ends the line, so that what follows begins a new one.
  void End();

 private:
  using Clock = std::chrono::steady_clock;

  const std::string what_;
  const int64_t total_;
  const std::string unit_;
  const bool is_terminal_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point shown_;
  bool open_ = false;
};

}  // namespace fedumm::programs
