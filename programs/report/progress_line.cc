#include "programs/report/progress_line.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_format.h"

namespace fedumm::programs {

ProgressLine::ProgressLine(std::string what, int64_t total, std::string unit)
    : what_(std::move(what)),
      total_(total),
      unit_(std::move(unit)),
      is_terminal_(isatty(STDERR_FILENO) == 1) {}

void ProgressLine::Show(int64_t done) {
  const Clock::time_point now = Clock::now();
  if (!is_terminal_ || total_ <= 0) return;
  if (open_ && done < total_ && now - shown_ < std::chrono::milliseconds(100)) return;
  shown_ = now;
  open_ = true;
  constexpr int kCells = 24;
  const double part = std::clamp(static_cast<double>(done) / static_cast<double>(total_), 0.0, 1.0);
  const int filled = static_cast<int>(part * kCells);
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double left = part > 0 ? seconds / part - seconds : 0;
  const std::string line = absl::StrFormat(
      "\r%s [%s%s] %3.0f%%  %d of %d %s, %.0f s left ", what_, std::string(filled, '#'),
      std::string(kCells - filled, '.'), 100 * part, done, total_, unit_, left);
  std::fputs(line.c_str(), stderr);
  std::fflush(stderr);
}

void ProgressLine::End() {
  if (open_) std::fputc('\n', stderr);
  open_ = false;
}

}  // namespace fedumm::programs
