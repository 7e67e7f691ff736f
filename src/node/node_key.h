#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

struct evp_pkey_st;  // OpenSSL's EVP_PKEY

namespace fedumm {

// A node's identity: an EC P-256 key pair that lives as long as the process. Every call is signed,
// and OpenSSL signs with P-256 some forty times faster than with P-384, which Flower's nodes make;
// servers of all versions take both. Thread-safe.
class NodeKey {
 public:
  static absl::StatusOr<NodeKey> Generate();

  // SubjectPublicKeyInfo as PEM: the bytes that name this node to a server.
  const std::string& public_key_pem() const { return public_key_pem_; }
  // ECDSA with SHA-256, DER.
  absl::StatusOr<std::string> Sign(std::string_view text) const;

 private:
  struct Free {
    void operator()(evp_pkey_st* key) const;
  };
  using Handle = std::unique_ptr<evp_pkey_st, Free>;

  NodeKey(Handle key, std::string public_key_pem);

  Handle key_;
  std::string public_key_pem_;
};

}  // namespace fedumm
