#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/pem.h"

namespace fedumm {

// An elliptic-curve key, public or both halves. May be read by many threads at once.
using EcKey = PemKey;

// The private key of a file on P-256, P-384 or P-521, the curves of Flower's node keys: OpenSSH's
// own form or PEM (PKCS#8, SEC1), without a passphrase. INVALID_ARGUMENT says what the text is
// instead, and never quotes it.
absl::StatusOr<EcKey> ReadPrivateKey(std::string_view text);

// The public key of a file (PEM, or one line of OpenSSH's) on the same curves, as a node names
// itself with it: see PublicKeyPem. INVALID_ARGUMENT says what the text is instead.
absl::StatusOr<std::string> ParsePublicKey(std::string_view text);

// SubjectPublicKeyInfo as PEM, byte for byte as Python's cryptography writes it. INVALID_ARGUMENT
// for a key on a curve that Flower's nodes do not use.
absl::StatusOr<std::string> PublicKeyPem(evp_pkey_st* key);

// The reverse of PublicKeyPem. Accepts exactly what that writes, so that a key has one text; null
// for anything else. Also accepts secp256k1, as Flower's servers do for nodes that register
// themselves.
EcKey ReadPublicKeyPem(std::string_view pem);

}  // namespace fedumm
