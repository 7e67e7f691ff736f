#include "transport/certificates.h"

#include <openssl/err.h>
#include <openssl/x509.h>

#include <vector>

#include "base/pem.h"
#include "base/status_macros.h"

namespace fedumm::transport {

absl::Status CheckServerTls(const ServerTls& tls) {
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<PemCertificate> chain,
                          ReadPemCertificates(tls.certificate_chain, "the certificate chain"));
  const PemKey key = ReadPemPrivateKey(tls.private_key);
  if (key == nullptr) {
    return absl::InvalidArgumentError("the private key is no PEM private key without passphrase");
  }
  const bool fits = X509_check_private_key(chain.front().get(), key.get()) == 1;
  ERR_clear_error();
  if (!fits) {
    return absl::InvalidArgumentError(
        "the private key is not that of the first certificate in the certificate chain");
  }
  if (tls.client_ca.empty()) return absl::OkStatus();
  return ReadPemCertificates(tls.client_ca, "the CA of the clients").status();
}

}  // namespace fedumm::transport
