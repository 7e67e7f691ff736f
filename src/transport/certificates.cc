#include "transport/certificates.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace fedumm::transport {
namespace {

constexpr size_t kMaxPemBytes = size_t{4} << 20;  // a system's whole list of CAs is 0.2 MiB

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using Certificate = std::unique_ptr<X509, Free>;

std::unique_ptr<BIO, Free> Reader(const std::string& pem) {
  return std::unique_ptr<BIO, Free>(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// OpenSSL would ask the terminal for one.
int NoPassphrase(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*user*/) { return -1; }

absl::StatusOr<std::vector<Certificate>> ReadCertificates(const std::string& pem,
                                                          std::string_view name) {
  std::vector<Certificate> certificates;
  if (pem.size() <= kMaxPemBytes) {
    const std::unique_ptr<BIO, Free> reader = Reader(pem);
    while (X509* const next = PEM_read_bio_X509(reader.get(), nullptr, NoPassphrase, nullptr)) {
      certificates.emplace_back(next);
    }
  }
  ERR_clear_error();
  if (certificates.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(Text(name), " holds no PEM certificate"));
  }
  return certificates;
}

absl::Status CheckPair(const std::string& chain, std::string_view chain_name,
                       const std::string& private_key) {
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<Certificate> certificates,
                          ReadCertificates(chain, chain_name));
  if (private_key.size() > kMaxPemBytes) {
    return absl::InvalidArgumentError("the private key is too large");
  }
  const std::unique_ptr<EVP_PKEY, Free> key(
      PEM_read_bio_PrivateKey(Reader(private_key).get(), nullptr, NoPassphrase, nullptr));
  const bool fits =
      key != nullptr && X509_check_private_key(certificates.front().get(), key.get()) == 1;
  ERR_clear_error();
  if (key == nullptr) {
    return absl::InvalidArgumentError("the private key is no PEM private key without passphrase");
  }
  if (!fits) {
    return absl::InvalidArgumentError(
        absl::StrCat("the private key is not that of the first certificate in ", Text(chain_name)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckServerTls(const ServerTls& tls) {
  FEDUMM_RETURN_IF_ERROR(
      CheckPair(tls.certificate_chain, "the certificate chain", tls.private_key));
  if (tls.client_ca.empty()) return absl::OkStatus();
  return ReadCertificates(tls.client_ca, "the CA of the clients").status();
}

absl::Status CheckClientTls(const ClientTls& tls) {
  if (!tls.root_certificates.empty()) {
    FEDUMM_RETURN_IF_ERROR(
        ReadCertificates(tls.root_certificates, "the root certificates").status());
  }
  if (tls.certificate_chain.empty() && tls.private_key.empty()) return absl::OkStatus();
  return CheckPair(tls.certificate_chain, "the certificate chain", tls.private_key);
}

}  // namespace fedumm::transport
