#pragma once

#include <openssl/evp.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

namespace fedumm::testing {

struct PemPair {
  std::string certificate;
  std::string private_key;
};

// A certificate authority that lives as long as a test.
class TestAuthority {
 public:
  struct Request {
    std::string names = "DNS:localhost,IP:127.0.0.1,IP:::1";  // as openssl.cnf writes them
    int valid_for_s = 3600;                                   // negative: expired since then
  };

  TestAuthority();
  PemPair Issue(const Request& request) const;
  PemPair Issue() const { return Issue(Request()); }
  const std::string& certificate() const { return pem_; }

 private:
  using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
  using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;

  static Key NewKey();
  // Signed by `signer`, for `key`.
  static Certificate NewCertificate(EVP_PKEY* key, const X509* issuer, EVP_PKEY* signer,
                                    const std::string& common_name, const std::string& constraints,
                                    const Request& request);
  static std::string Pem(X509* certificate);

  Key key_;
  Certificate certificate_;
  std::string pem_;
};

}  // namespace fedumm::testing
