#include "link/random_id.h"

#include <openssl/rand.h>

#include <cstdlib>

#include "absl/strings/str_format.h"

namespace fedumm::link {

uint64_t RandomId() {
  uint64_t id = 0;
  while (id <= 1) {
    // Fails only where the system has no source of randomness at all.
    if (RAND_bytes(reinterpret_cast<unsigned char*>(&id), sizeof(id)) != 1) std::abort();
  }
  return id;
}

std::string RandomSession() { return absl::StrFormat("%016x%016x", RandomId(), RandomId()); }

}  // namespace fedumm::link
