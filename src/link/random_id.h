#pragma once

#include <cstdint>
#include <string>

namespace fedumm::link {

// Unpredictable ids, so that no peer can guess another's. Thread-safe.
uint64_t RandomId();          // neither 0 nor 1, which Flower reserves
std::string RandomSession();  // 32 hex digits

}  // namespace fedumm::link
