#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace fedumm {

// The fields of OpenSSH's formats. Whether they are a key is not checked yet.
struct OpenSshKey {
  std::string type;        // "ecdsa-sha2-nistp256"
  std::string curve;       // "nistp256"; empty unless the key is ECDSA
  std::string point;       // of the public key, uncompressed
  std::string secret;      // big-endian; empty for a public key
  bool encrypted = false;  // has a passphrase: the other fields are empty
};

// The binary format "openssh-key-v1", which the PEM block "OPENSSH PRIVATE KEY" holds.
// INVALID_ARGUMENT if it is damaged.
absl::StatusOr<OpenSshKey> ParseOpenSshPrivateKey(std::string_view binary);

// One line "ecdsa-sha2-nistp384 AAAA… comment". INVALID_ARGUMENT if it is none.
absl::StatusOr<OpenSshKey> ParseOpenSshPublicKey(std::string_view line);

}  // namespace fedumm
