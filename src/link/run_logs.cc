#include "link/run_logs.h"

#include <algorithm>
#include <utility>

namespace fedumm::link {
namespace {

constexpr size_t kMostBytesOfRun = size_t{1} << 20;
constexpr size_t kMostBytes = size_t{64} << 20;
// Readers ask for what is later than the last time that they saw, and a microsecond on top.
constexpr double kStep = 3e-6;

// The end of a text in UTF-8.
std::string Tail(std::string text, size_t most_bytes) {
  if (text.size() <= most_bytes) return text;
  size_t begin = text.size() - most_bytes;
  while (begin < text.size() && (static_cast<unsigned char>(text[begin]) & 0xc0) == 0x80) ++begin;
  return text.substr(begin);
}

}  // namespace

void RunLogs::Add(uint64_t run_id, std::string text, absl::Time now) {
  if (text.empty()) return;
  text = Tail(std::move(text), kMostBytesOfRun);
  Run& run = runs_[run_id];
  double time = absl::ToDoubleSeconds(now - absl::UnixEpoch());
  if (!run.entries.empty()) time = std::max(time, run.entries.back().time + kStep);
  run.num_bytes += text.size();
  num_bytes_ += text.size();
  run.entries.push_back({.time = time, .text = std::move(text)});
  while (run.num_bytes > kMostBytesOfRun) {
    run.num_bytes -= run.entries.front().text.size();
    num_bytes_ -= run.entries.front().text.size();
    run.entries.pop_front();
  }
  while (num_bytes_ > kMostBytes) {
    const auto oldest =
        std::min_element(runs_.begin(), runs_.end(), [](const auto& a, const auto& b) {
          return a.second.entries.back().time < b.second.entries.back().time;
        });
    num_bytes_ -= oldest->second.num_bytes;
    runs_.erase(oldest);
  }
}

RunLogs::Part RunLogs::Read(uint64_t run_id, double after) const {
  Part part{.text = "", .latest = after};
  const auto run = runs_.find(run_id);
  if (run == runs_.end()) return part;
  for (const Entry& entry : run->second.entries) {
    if (entry.time <= after) continue;
    part.text += entry.text;
    part.latest = entry.time;
  }
  return part;
}

}  // namespace fedumm::link
