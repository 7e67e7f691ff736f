// Numbers for people.
#pragma once

#include <string>

namespace fedumm::programs {

std::string HumanBytes(double bytes);  // "1.2 MB", powers of 1000
// "12,800", for a count that is not negative
std::string Thousands(int64_t count);
std::string Percent(double share);  // "93.4 %"; "–" for NaN

}  // namespace fedumm::programs
