#include "node/node_key.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <utility>

#include "absl/status/status.h"

namespace fedumm {

void NodeKey::Free::operator()(evp_pkey_st* key) const { EVP_PKEY_free(key); }

NodeKey::NodeKey(Handle key, std::string public_key_pem)
    : key_(std::move(key)), public_key_pem_(std::move(public_key_pem)) {}

absl::StatusOr<NodeKey> NodeKey::Generate() {
  Handle key(EVP_EC_gen("P-256"));
  const std::unique_ptr<BIO, decltype(&BIO_free)> memory(BIO_new(BIO_s_mem()), &BIO_free);
  if (key == nullptr || memory == nullptr || PEM_write_bio_PUBKEY(memory.get(), key.get()) != 1) {
    return absl::InternalError("OpenSSL cannot make a P-256 key");
  }
  char* text = nullptr;
  const long size = BIO_get_mem_data(memory.get(), &text);
  return NodeKey(std::move(key), std::string(text, size));
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
