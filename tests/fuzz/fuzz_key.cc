// Text as a private key, a public key and a node's name; what is read is written and read again.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/ec_key.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const absl::StatusOr<fedumm::EcKey> key = fedumm::ReadPrivateKey(text); key.ok()) {
    const std::string pem = fedumm::PublicKeyPem(key->get()).value();
    if (fedumm::ReadPublicKeyPem(pem) == nullptr) std::abort();
  }
  if (const absl::StatusOr<std::string> pem = fedumm::ParsePublicKey(text); pem.ok()) {
    if (fedumm::ParsePublicKey(*pem).value() != *pem) std::abort();
  }
  if (const fedumm::EcKey key = fedumm::ReadPublicKeyPem(text); key != nullptr) {
    if (fedumm::PublicKeyPem(key.get()).value() != text) std::abort();
  }
  return 0;
}
