// Reads PEM: the one place where our code asks OpenSSL for a certificate or a key in a text.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

struct evp_pkey_st;  // OpenSSL's EVP_PKEY
struct x509_st;      // and X509

namespace fedumm {

struct PemFree {
  void operator()(evp_pkey_st* key) const;
  void operator()(x509_st* certificate) const;
};
using PemKey = std::unique_ptr<evp_pkey_st, PemFree>;
using PemCertificate = std::unique_ptr<x509_st, PemFree>;

// All certificates of `pem`, at least one, in order. INVALID_ARGUMENT, naming `what` ("the root
// certificates"), if there is none or one is damaged.
absl::StatusOr<std::vector<PemCertificate>> ReadPemCertificates(std::string_view pem,
                                                                std::string_view what);

// The first private key of `pem`. Null if there is none, or it is damaged or has a passphrase: it
// never asks for one.
PemKey ReadPemPrivateKey(std::string_view pem);
// The first public key (SubjectPublicKeyInfo) of `pem`, null if there is none.
PemKey ReadPemPublicKey(std::string_view pem);

// The kind of the first block: "EC PRIVATE KEY" of "-----BEGIN EC PRIVATE KEY-----"; empty if there
// is no block.
std::string_view PemLabel(std::string_view text);
// The bytes of the first block of that kind. Nothing if there is none, it does not end, or it is
// not base64.
std::optional<std::string> PemContent(std::string_view text, std::string_view label);

}  // namespace fedumm
