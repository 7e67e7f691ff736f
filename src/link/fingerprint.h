#pragma once

#include <cstdint>
#include <string_view>

namespace fedumm::link {

// The first 64 bits of the SHA-256 of a text: the same on every machine. Whoever chooses the text
// cannot choose these.
uint64_t Fingerprint(std::string_view text);

}  // namespace fedumm::link
