// Numbers for people.
#pragma once

#include <cstdint>
#include <string>

namespace fedumm::programs {

std::string HumanBytes(double bytes);  // "1.2 MB", powers of 1000
std::string Thousands(int64_t count);  // "12,800"; `count` is not negative
std::string Percent(double share);     // "93.4 %"; "–" for NaN

}  // namespace fedumm::programs
