#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/ec_key.h"

namespace fedumm {

// A node's identity: an EC key pair. Thread-safe.
class NodeKey {
 public:
  // A P-256 key that lives as long as the process. Every call is signed, and OpenSSL signs with
  // P-256 some forty times faster than with P-384, which Flower's nodes make; servers of all
  // versions take both.
  static absl::StatusOr<NodeKey> Generate();
  // The key of a file on P-256, P-384 or P-521: OpenSSH's own form or PEM (PKCS#8, SEC1), without a
  // passphrase. INVALID_ARGUMENT says what the text is instead.
  static absl::StatusOr<NodeKey> Parse(std::string_view text);

  // SubjectPublicKeyInfo as PEM: the bytes that name this node to a server.
  const std::string& public_key_pem() const { return public_key_pem_; }
  // ECDSA with SHA-256, DER.
  absl::StatusOr<std::string> Sign(std::string_view text) const;

 private:
  NodeKey(EcKey key, std::string public_key_pem);
  static absl::StatusOr<NodeKey> Of(EcKey key);

  EcKey key_;
  std::string public_key_pem_;
};

}  // namespace fedumm
