#include "base/pem.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <algorithm>
#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/text.h"

namespace fedumm {
namespace {

constexpr size_t kMaxBytes = size_t{4} << 20;  // a system's whole list of CAs is 0.2 MiB
constexpr std::string_view kDashes = "-----";

struct FreeBio {
  void operator()(BIO* bio) const { BIO_free(bio); }
};

// Null if `pem` is too large.
std::unique_ptr<BIO, FreeBio> Reader(std::string_view pem) {
  if (pem.size() > kMaxBytes) return nullptr;
  const char* const data = pem.empty() ? "" : pem.data();
  return std::unique_ptr<BIO, FreeBio>(BIO_new_mem_buf(data, static_cast<int>(pem.size())));
}

// Without a callback OpenSSL would ask for a passphrase on the terminal.
int NoPassphrase(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*user*/) { return -1; }

// Null if `pem` is too large or has no such key.
PemKey ReadKey(std::string_view pem, decltype(PEM_read_bio_PrivateKey)* read) {
  const auto reader = Reader(pem);
  if (reader == nullptr) return nullptr;
  PemKey key(read(reader.get(), nullptr, NoPassphrase, nullptr));
  ERR_clear_error();
  return key;
}

}  // namespace

void PemFree::operator()(evp_pkey_st* key) const { EVP_PKEY_free(key); }
void PemFree::operator()(x509_st* certificate) const { X509_free(certificate); }

absl::StatusOr<std::vector<PemCertificate>> ReadPemCertificates(std::string_view pem,
                                                                std::string_view what) {
  std::vector<PemCertificate> result;
  const auto reader = Reader(pem);
  if (reader == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("there are ", pem.size(), " bytes, more than ",
                                                   kMaxBytes, ", in ", Text(what)));
  }
  ERR_clear_error();
  while (X509* const next = PEM_read_bio_X509(reader.get(), nullptr, NoPassphrase, nullptr)) {
    result.emplace_back(next);
  }
  const int reason = ERR_GET_REASON(ERR_peek_last_error());
  ERR_clear_error();
  if (reason != PEM_R_NO_START_LINE) {  // the text did not end there
    return absl::InvalidArgumentError(
        absl::StrCat("certificate ", result.size() + 1, " of ", Text(what), " is damaged"));
  }
  if (result.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("there is no PEM certificate in ", Text(what)));
  }
  return result;
}

PemKey ReadPemPrivateKey(std::string_view pem) { return ReadKey(pem, PEM_read_bio_PrivateKey); }

PemKey ReadPemPublicKey(std::string_view pem) { return ReadKey(pem, PEM_read_bio_PUBKEY); }

std::string_view PemLabel(std::string_view text) {
  constexpr std::string_view kBegin = "-----BEGIN ";
  const size_t begin = text.find(kBegin);
  if (begin == std::string_view::npos) return {};
  text.remove_prefix(begin + kBegin.size());
  return text.substr(0, std::min(text.find(kDashes), size_t{64}));
}

std::optional<std::string> PemContent(std::string_view text, std::string_view label) {
  const std::string first = absl::StrCat("-----BEGIN ", Text(label), Text(kDashes));
  const size_t begin = text.find(first);
  if (begin == std::string_view::npos) return std::nullopt;
  text.remove_prefix(begin + first.size());
  const size_t end = text.find(absl::StrCat("-----END ", Text(label), Text(kDashes)));
  std::string content;
  if (end == std::string_view::npos || !absl::Base64Unescape(Text(text.substr(0, end)), &content)) {
    return std::nullopt;
  }
  return content;
}

}  // namespace fedumm
