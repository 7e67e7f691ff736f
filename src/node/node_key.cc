#include "node/node_key.h"

#include <openssl/ec.h>
#include <openssl/evp.h>

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "base/status_macros.h"

namespace fedumm {

NodeKey::NodeKey(EcKey key, std::string public_key_pem)
    : key_(std::move(key)), public_key_pem_(std::move(public_key_pem)) {}

absl::StatusOr<NodeKey> NodeKey::Of(EcKey key) {
  FEDUMM_ASSIGN_OR_RETURN(std::string public_key_pem, PublicKeyPem(key.get()));
  return NodeKey(std::move(key), std::move(public_key_pem));
}

absl::StatusOr<NodeKey> NodeKey::Generate() {
  EcKey key(EVP_EC_gen("P-256"));
  if (key == nullptr) return absl::InternalError("OpenSSL cannot make a P-256 key");
  return Of(std::move(key));
}

absl::StatusOr<NodeKey> NodeKey::Parse(std::string_view text) {
  FEDUMM_ASSIGN_OR_RETURN(EcKey key, ReadPrivateKey(text));
  return Of(std::move(key));
}

absl::StatusOr<std::string> NodeKey::Sign(std::string_view text) const {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
                                                                        &EVP_MD_CTX_free);
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  std::string signature(EVP_PKEY_get_size(key_.get()), '\0');  // the longest it can be
  size_t size = signature.size();
  if (context == nullptr ||
      EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, key_.get()) != 1 ||
      EVP_DigestSign(context.get(), reinterpret_cast<unsigned char*>(signature.data()), &size,
                     bytes, text.size()) != 1) {
    return absl::InternalError("OpenSSL cannot sign");
  }
  signature.resize(size);
  return signature;
}

}  // namespace fedumm
