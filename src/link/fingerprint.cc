#include "link/fingerprint.h"

#include <openssl/sha.h>

#include <array>

namespace fedumm::link {

uint64_t Fingerprint(std::string_view text) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(value); ++i) value = value << 8 | digest[i];
  return value;
}

}  // namespace fedumm::link
