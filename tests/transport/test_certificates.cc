#include "tests/transport/test_certificates.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <stdexcept>

namespace fedumm::testing {
namespace {

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;

void Check(bool ok) {
  if (!ok) throw std::runtime_error("OpenSSL cannot make a certificate");
}

std::string TextOf(BIO* memory) {
  char* text = nullptr;
  const long size = BIO_get_mem_data(memory, &text);
  return {text, static_cast<size_t>(size)};
}

void AddExtension(X509* certificate, int id, const std::string& value) {
  X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, nullptr, id, value.c_str());
  Check(extension != nullptr && X509_add_ext(certificate, extension, -1) == 1);
  X509_EXTENSION_free(extension);
}

}  // namespace

TestAuthority::Key TestAuthority::NewKey() { return {EVP_EC_gen("P-256"), &EVP_PKEY_free}; }

TestAuthority::Certificate TestAuthority::NewCertificate(EVP_PKEY* key, const X509* issuer,
                                                         EVP_PKEY* signer,
                                                         const std::string& common_name,
                                                         const std::string& constraints,
                                                         const Request& request) {
  static long serial = 0;
  Certificate certificate(X509_new(), &X509_free);
  X509* const x509 = certificate.get();
  X509_set_version(x509, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(x509), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(x509), -7200);
  X509_gmtime_adj(X509_getm_notAfter(x509), request.valid_for_s);
  X509_set_pubkey(x509, key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(x509), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(common_name.c_str()), -1, -1,
                             0);
  X509_set_issuer_name(x509, X509_get_subject_name(issuer != nullptr ? issuer : x509));
  AddExtension(x509, NID_basic_constraints, constraints);
  if (!request.names.empty()) AddExtension(x509, NID_subject_alt_name, request.names);
  Check(X509_sign(x509, signer, EVP_sha256()) != 0);
  return certificate;
}

std::string TestAuthority::Pem(X509* certificate) {
  const Bio memory(BIO_new(BIO_s_mem()), &BIO_free);
  Check(PEM_write_bio_X509(memory.get(), certificate) == 1);
  return TextOf(memory.get());
}

TestAuthority::TestAuthority()
    : key_(NewKey()),
      certificate_(NewCertificate(key_.get(), nullptr, key_.get(), "test authority",
                                  "critical,CA:TRUE", {.names = ""})),
      pem_(Pem(certificate_.get())) {}

PemPair TestAuthority::Issue(const Request& request) const {
  const Key key = NewKey();
  const Certificate certificate =
      NewCertificate(key.get(), certificate_.get(), key_.get(), "peer", "CA:FALSE", request);
  const Bio memory(BIO_new(BIO_s_mem()), &BIO_free);
  Check(PEM_write_bio_PrivateKey(memory.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) ==
        1);
  return {Pem(certificate.get()), TextOf(memory.get())};
}

}  // namespace fedumm::testing
