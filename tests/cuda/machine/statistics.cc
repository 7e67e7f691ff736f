#include "tests/cuda/machine/statistics.h"

#include <algorithm>
#include <cstdio>

namespace fedumm::cuda_machine {
namespace {

size_t CountDistinct(std::vector<uint64_t>& values) {
  std::sort(values.begin(), values.end());
  return static_cast<size_t>(std::unique(values.begin(), values.end()) - values.begin());
}

// The distinct units of `unit` bytes that the accesses touch.
size_t Touched(const uint64_t* addresses, int lanes, int bytes, int unit) {
  std::vector<uint64_t> units;
  for (int i = 0; i < lanes; ++i) {
    for (uint64_t u = addresses[i] / unit; u <= (addresses[i] + bytes - 1) / unit; ++u) {
      units.push_back(u);
    }
  }
  return CountDistinct(units);
}

}  // namespace

int StatisticsCollector::Wavefronts(const uint64_t* addresses, int lanes, int bytes) {
  const int step = bytes <= 4 ? 32 : bytes == 8 ? 16 : 8;
  int total = 0;
  for (int first = 0; first < lanes; first += step) {
    std::vector<uint64_t> words;
    for (int i = first; i < std::min(first + step, lanes); ++i) {
      for (uint64_t w = addresses[i] / 4; w <= (addresses[i] + bytes - 1) / 4; ++w) {
        words.push_back(w);
      }
    }
    words.resize(CountDistinct(words));
    int visits[32] = {};
    for (const uint64_t w : words) ++visits[w % 32];
    total += *std::max_element(visits, visits + 32);
  }
  return total;
}

void StatisticsCollector::Count(const Site& site, const uint64_t* addresses, int lanes, int bytes) {
  if (lanes == 0) return;
  Counts& c = accesses_[site];
  ++c.requests;
  if (site.shared) {
    c.cost += static_cast<uint64_t>(Wavefronts(addresses, lanes, bytes));
    c.ideal += (Touched(addresses, lanes, bytes, 4) + 31) / 32;
  } else {
    c.cost += Touched(addresses, lanes, bytes, 32);
    c.ideal += (Touched(addresses, lanes, bytes, 2) * 2 + 31) / 32;
  }
}

Statistics StatisticsCollector::Take() {
  Statistics out;
  for (const auto& [site, c] : accesses_) {
    out.accesses.push_back({site.kernel, site.file, site.instruction, site.line, site.shared,
                            c.requests, c.cost, c.ideal});
  }
  out.instructions.swap(instructions_);
  accesses_.clear();
  return out;
}

double Statistics::Ratio(bool shared, std::string_view prefix) const {
  uint64_t cost = 0, ideal = 0;
  for (const AccessStatistics& a : accesses) {
    if (a.shared != shared || a.instruction.compare(0, prefix.size(), prefix) != 0) continue;
    cost += a.cost;
    ideal += a.ideal;
  }
  return ideal == 0 ? 1 : static_cast<double>(cost) / static_cast<double>(ideal);
}

std::string Statistics::ToString() const {
  std::string out;
  char line[512];
  for (const AccessStatistics& a : accesses) {
    snprintf(line, sizeof line, "%s %s:%d %s %s: %llu requests, %.2f x the ideal\n",
             a.kernel.c_str(), a.file.c_str(), a.line, a.instruction.c_str(),
             a.shared ? "shared" : "global", static_cast<unsigned long long>(a.requests),
             a.ideal == 0 ? 1.0 : static_cast<double>(a.cost) / static_cast<double>(a.ideal));
    out += line;
  }
  for (const auto& [opcode, count] : instructions) {
    out += opcode + ": " + std::to_string(count) + "\n";
  }
  return out;
}

}  // namespace fedumm::cuda_machine
