// OpenSSH's binary format of a private key, without the base64 around it.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/openssh_key.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view binary(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<fedumm::OpenSshKey> key = fedumm::ParseOpenSshPrivateKey(binary);
  if (!key.ok() || key->encrypted) return 0;
  if (key->secret.size() + key->point.size() > size) std::abort();
  if (key->curve.empty() != key->secret.empty()) std::abort();
  return 0;
}
