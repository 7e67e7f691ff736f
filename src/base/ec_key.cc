#include "base/ec_key.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>

#include <algorithm>
#include <array>
#include <optional>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/openssh_key.h"
#include "base/pem.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace fedumm {
namespace {

using namespace std::string_view_literals;

constexpr size_t kMaxTextBytes = 32 * 1024;  // more than any key file has
constexpr size_t kMaxPublicPemBytes = 512;   // that of a P-521 key has 268
constexpr std::string_view kPublicKey = "PUBLIC KEY";
constexpr std::string_view kOpenSshPrivateKey = "OPENSSH PRIVATE KEY";
constexpr size_t kPemColumns = 64;

struct Free {
  void operator()(BIGNUM* number) const { BN_clear_free(number); }
  void operator()(EVP_PKEY_CTX* context) const { EVP_PKEY_CTX_free(context); }
  void operator()(OSSL_PARAM_BLD* builder) const { OSSL_PARAM_BLD_free(builder); }
  void operator()(OSSL_PARAM* params) const { OSSL_PARAM_free(params); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

struct Curve {
  std::string_view group;  // OpenSSL's name
  std::string_view ssh;    // OpenSSH's; empty: no curve of node key files
  size_t coordinate_bytes;
  std::string_view spki;  // DER of a SubjectPublicKeyInfo up to the point
};
constexpr Curve kCurves[] = {
    {"prime256v1", "nistp256", 32,
     "\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
     "\x03\x42\x00"sv},
    {"secp384r1", "nistp384", 48,
     "\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62"
     "\x00"sv},
    {"secp521r1", "nistp521", 66,
     "\x30\x81\x9b\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23\x03\x81"
     "\x86\x00"sv},
    {"secp256k1", "", 32,
     "\x30\x56\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x0a\x03\x42"
     "\x00"sv}};

const Curve* FindCurve(std::string_view group) {
  const auto* const it =
      std::find_if(std::begin(kCurves), std::end(kCurves), [&](const Curve& curve) {
        return curve.group == group || (!curve.ssh.empty() && curve.ssh == group);
      });
  return it == std::end(kCurves) ? nullptr : it;
}

std::string GroupOf(EVP_PKEY* key) {
  std::array<char, 64> group = {};
  size_t size = 0;
  if (EVP_PKEY_get_group_name(key, group.data(), group.size(), &size) != 1) return {};
  return {group.data(), size};
}

absl::Status NotEc(std::string_view kind) {
  return absl::InvalidArgumentError(
      absl::StrCat("the key is ", Text(kind), "; Flower's node keys are EC"));
}

absl::Status Encrypted() {
  return absl::InvalidArgumentError(
      "the private key has a passphrase; remove it with `ssh-keygen -p`");
}

// OK for an EC key on a curve of node key files.
absl::Status CheckKind(EVP_PKEY* key) {
  switch (EVP_PKEY_get_base_id(key)) {
    case EVP_PKEY_EC:
      break;
    case EVP_PKEY_RSA:
    case EVP_PKEY_RSA_PSS:
      return NotEc("RSA");
    case EVP_PKEY_ED25519:
      return NotEc("Ed25519");
    default:
      return NotEc("of another kind");
  }
  const std::string group = GroupOf(key);
  const Curve* const curve = FindCurve(group);
  if (curve != nullptr && !curve->ssh.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the key is on the curve ", group.empty() ? "of its own" : group,
                   "; those of Flower's node keys are P-256, P-384 and P-521"));
}

// Null unless `point` (and `secret`, big-endian, if not empty) make a key on the curve.
EcKey MakeKey(const Curve& curve, std::string_view point, std::string_view secret = {}) {
  const Owned<OSSL_PARAM_BLD> builder(OSSL_PARAM_BLD_new());
  const Owned<EVP_PKEY_CTX> context(EVP_PKEY_CTX_new_from_name(nullptr, "EC", nullptr));
  Owned<BIGNUM> number;
  bool made = builder != nullptr && context != nullptr &&
              OSSL_PARAM_BLD_push_utf8_string(builder.get(), OSSL_PKEY_PARAM_GROUP_NAME,
                                              curve.group.data(), curve.group.size()) == 1 &&
              OSSL_PARAM_BLD_push_octet_string(builder.get(), OSSL_PKEY_PARAM_PUB_KEY, point.data(),
                                               point.size()) == 1;
  if (made && !secret.empty()) {
    number.reset(BN_bin2bn(reinterpret_cast<const unsigned char*>(secret.data()),
                           static_cast<int>(secret.size()), nullptr));
    made = number != nullptr &&
           OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_PRIV_KEY, number.get()) == 1;
  }
  const Owned<OSSL_PARAM> params(made ? OSSL_PARAM_BLD_to_param(builder.get()) : nullptr);
  EVP_PKEY* key = nullptr;
  if (params != nullptr && EVP_PKEY_fromdata_init(context.get()) == 1) {
    const int selection = secret.empty() ? EVP_PKEY_PUBLIC_KEY : EVP_PKEY_KEYPAIR;
    EVP_PKEY_fromdata(context.get(), &key, selection, params.get());
  }
  EcKey owned(key);
  if (owned != nullptr) {
    const Owned<EVP_PKEY_CTX> check(EVP_PKEY_CTX_new_from_pkey(nullptr, owned.get(), nullptr));
    // The quick check is complete here: the cofactor of these curves is one.
    const bool sound = secret.empty() ? EVP_PKEY_public_check_quick(check.get()) == 1
                                      : EVP_PKEY_check(check.get()) == 1;
    if (!sound) owned.reset();
  }
  ERR_clear_error();
  return owned;
}

absl::Status CheckSize(std::string_view text) {
  if (text.size() <= kMaxTextBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a key has no more than ", kMaxTextBytes, " bytes, not ", text.size()));
}

absl::Status KindOfSshKey(std::string_view type) {
  if (type == "ssh-rsa") return NotEc("RSA");
  if (type == "ssh-ed25519") return NotEc("Ed25519");
  if (type == "ssh-dss") return NotEc("DSA");
  if (absl::StartsWith(Text(type), "sk-")) return NotEc("that of a hardware token");
  return absl::InvalidArgumentError("the text holds no OpenSSH key of a known kind");
}

absl::StatusOr<EcKey> FromOpenSsh(const OpenSshKey& parts) {
  const Curve* const curve = FindCurve(parts.curve);
  if (curve == nullptr) return KindOfSshKey(parts.type);
  EcKey key = MakeKey(*curve, parts.point, parts.secret);
  if (key == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("the OpenSSH key is damaged: its numbers are no key on ", Text(parts.curve)));
  }
  return key;
}

absl::StatusOr<EcKey> ReadOpenSshPrivateKey(std::string_view text) {
  std::optional<std::string> binary = PemContent(text, kOpenSshPrivateKey);
  if (!binary.has_value()) {
    return absl::InvalidArgumentError("the OpenSSH key is damaged: it has no end or no base64");
  }
  const absl::Cleanup wipe_binary = [&] { OPENSSL_cleanse(binary->data(), binary->size()); };
  FEDUMM_ASSIGN_OR_RETURN(OpenSshKey parts, ParseOpenSshPrivateKey(*binary));
  const absl::Cleanup wipe = [&] { OPENSSL_cleanse(parts.secret.data(), parts.secret.size()); };
  if (parts.encrypted) return Encrypted();
  return FromOpenSsh(parts);
}

}  // namespace

absl::StatusOr<EcKey> ReadPrivateKey(std::string_view text) {
  FEDUMM_RETURN_IF_ERROR(CheckSize(text));
  const std::string_view label = PemLabel(text);
  if (label == kOpenSshPrivateKey) return ReadOpenSshPrivateKey(text);
  if (label == "ENCRYPTED PRIVATE KEY" || absl::StrContains(Text(text), "Proc-Type: 4,ENCRYPTED")) {
    return Encrypted();
  }
  if (label == "RSA PRIVATE KEY") return NotEc("RSA");
  if (label == "DSA PRIVATE KEY") return NotEc("DSA");
  if (label == "CERTIFICATE") {
    return absl::InvalidArgumentError("the text is a certificate, not a private key");
  }
  const absl::string_view stripped = absl::StripLeadingAsciiWhitespace(Text(text));
  if (label == kPublicKey || absl::StartsWith(stripped, "ecdsa-sha2-") ||
      absl::StartsWith(stripped, "ssh-")) {
    return absl::InvalidArgumentError("the text is a public key; a private key is needed");
  }
  if (label.empty()) return absl::InvalidArgumentError("the text holds no private key");

  EcKey key = ReadPemPrivateKey(text);
  if (key == nullptr) {
    return absl::InvalidArgumentError("the private key is damaged, or of an unknown kind");
  }
  FEDUMM_RETURN_IF_ERROR(CheckKind(key.get()));
  const Owned<EVP_PKEY_CTX> check(EVP_PKEY_CTX_new_from_pkey(nullptr, key.get(), nullptr));
  const bool sound = EVP_PKEY_check(check.get()) == 1;
  ERR_clear_error();
  if (!sound) return absl::InvalidArgumentError("the private key does not fit its public key");
  return key;
}

absl::StatusOr<std::string> ParsePublicKey(std::string_view text) {
  FEDUMM_RETURN_IF_ERROR(CheckSize(text));
  const std::string_view label = PemLabel(text);
  EcKey key;
  if (label.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(const OpenSshKey parts, ParseOpenSshPublicKey(text));
    FEDUMM_ASSIGN_OR_RETURN(key, FromOpenSsh(parts));
  } else if (label == kPublicKey) {
    key = ReadPemPublicKey(text);
    if (key == nullptr) return absl::InvalidArgumentError("the public key is damaged");
  } else if (absl::EndsWith(Text(label), "PRIVATE KEY")) {
    return absl::InvalidArgumentError("the text is a private key; a public key is needed");
  } else {
    return absl::InvalidArgumentError("the text holds no public key");
  }
  FEDUMM_RETURN_IF_ERROR(CheckKind(key.get()));
  FEDUMM_ASSIGN_OR_RETURN(std::string pem, PublicKeyPem(key.get()));
  if (ReadPublicKeyPem(pem) == nullptr) {  // OpenSSL reads points that are on no curve
    return absl::InvalidArgumentError("the public key is damaged");
  }
  return pem;
}

absl::StatusOr<std::string> PublicKeyPem(evp_pkey_st* key) {
  const Curve* const curve = FindCurve(GroupOf(key));
  if (curve == nullptr)
    return absl::InvalidArgumentError("the key is on a curve that Flower's nodes do not use");
  std::string der = absl::StrCat(Text(curve->spki), "\x04");
  for (const char* const name : {OSSL_PKEY_PARAM_EC_PUB_X, OSSL_PKEY_PARAM_EC_PUB_Y}) {
    BIGNUM* number = nullptr;
    EVP_PKEY_get_bn_param(key, name, &number);
    const Owned<BIGNUM> coordinate(number);
    const size_t size = curve->coordinate_bytes;
    const size_t offset = der.size();
    der.resize(offset + size);
    if (coordinate == nullptr ||
        BN_bn2binpad(coordinate.get(), reinterpret_cast<unsigned char*>(der.data() + offset),
                     static_cast<int>(size)) < 0) {
      ERR_clear_error();
      return absl::InvalidArgumentError("the key has no public point");
    }
  }
  const std::string base64 = absl::Base64Escape(der);
  std::string pem = absl::StrCat("-----BEGIN ", Text(kPublicKey), "-----\n");
  for (size_t at = 0; at < base64.size(); at += kPemColumns) {
    absl::StrAppend(&pem, Text(std::string_view(base64).substr(at, kPemColumns)), "\n");
  }
  absl::StrAppend(&pem, "-----END ", Text(kPublicKey), "-----\n");
  return pem;
}

EcKey ReadPublicKeyPem(std::string_view pem) {
  if (pem.size() > kMaxPublicPemBytes) return nullptr;
  const std::optional<std::string> content = PemContent(pem, kPublicKey);
  if (!content.has_value()) return nullptr;
  const std::string& der = *content;
  for (const Curve& curve : kCurves) {
    const size_t point_bytes = 1 + 2 * curve.coordinate_bytes;
    if (der.size() != curve.spki.size() + point_bytes || !absl::StartsWith(der, Text(curve.spki))) {
      continue;
    }
    EcKey key = MakeKey(curve, std::string_view(der).substr(curve.spki.size()));
    if (key == nullptr) return nullptr;
    // Base64 allows other line breaks, and a point has other encodings.
    const absl::StatusOr<std::string> canonical = PublicKeyPem(key.get());
    return canonical.ok() && *canonical == pem ? std::move(key) : nullptr;
  }
  return nullptr;
}

}  // namespace fedumm
