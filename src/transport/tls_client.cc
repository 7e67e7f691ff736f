#include "transport/tls_client.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/pem.h"
#include "base/printable.h"
#include "base/status_macros.h"

namespace fedumm::transport {
namespace {

// OpenSSL's socket BIO raises SIGPIPE when the peer has disconnected, which would end the program.
int SendBio(BIO* bio, const char* data, int size) {
  BIO_clear_retry_flags(bio);
  int fd = -1;
  BIO_get_fd(bio, &fd);
  const auto sent = static_cast<int>(send(fd, data, size, MSG_NOSIGNAL));
  if (sent < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_write(bio);
  return sent;
}

const BIO_METHOD* SocketWithoutSignals() {
  static const BIO_METHOD* const method = [] {
    const BIO_METHOD* const socket = BIO_s_socket();
    BIO_METHOD* const made = BIO_meth_new(BIO_TYPE_SOCKET, "socket without signals");
    if (made != nullptr) {
      BIO_meth_set_write(made, &SendBio);
      BIO_meth_set_read(made, BIO_meth_get_read(socket));
      BIO_meth_set_ctrl(made, BIO_meth_get_ctrl(socket));
      BIO_meth_set_create(made, BIO_meth_get_create(socket));
      BIO_meth_set_destroy(made, BIO_meth_get_destroy(socket));
    }
    return made;
  }();
  return method;
}

std::string DateOf(const ASN1_TIME* time) {
  const std::unique_ptr<BIO, decltype(&BIO_free)> memory(BIO_new(BIO_s_mem()), &BIO_free);
  if (memory == nullptr || ASN1_TIME_print(memory.get(), time) != 1) return "an unknown date";
  char* text = nullptr;
  const long size = BIO_get_mem_data(memory.get(), &text);
  return {text, static_cast<size_t>(size)};
}

// The names that a certificate is for, at most eight.
std::string NamesOf(const X509* certificate) {
  constexpr size_t kMost = 8;
  std::vector<std::string> names;
  auto* const found = static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; i < sk_GENERAL_NAME_num(found) && names.size() < kMost; ++i) {
    const GENERAL_NAME* const name = sk_GENERAL_NAME_value(found, i);
    if (name->type == GEN_DNS) {
      const auto* text = reinterpret_cast<const char*>(ASN1_STRING_get0_data(name->d.dNSName));
      const int length = ASN1_STRING_length(name->d.dNSName);
      names.push_back(Printable({text, static_cast<size_t>(length)}));
    } else if (name->type == GEN_IPADD) {
      const unsigned char* ip = ASN1_STRING_get0_data(name->d.iPAddress);
      if (ASN1_STRING_length(name->d.iPAddress) == 4) {
        names.push_back(absl::StrJoin(std::vector<int>(ip, ip + 4), "."));
      } else {
        names.emplace_back("an IPv6 address");
      }
    }
  }
  GENERAL_NAMES_free(found);
  return names.empty() ? "no name at all" : absl::StrJoin(names, ", ");
}

std::string CertificateTrouble(int error, const X509* certificate) {
  switch (error) {
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      return absl::StrCat("it is for another host: ", NamesOf(certificate));
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return absl::StrCat("it expired on ", DateOf(X509_get0_notAfter(certificate)));
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return absl::StrCat("it is not valid before ", DateOf(X509_get0_notBefore(certificate)));
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_CERT_UNTRUSTED:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
      return absl::StrCat("none of the trusted root certificates signed it (",
                          X509_verify_cert_error_string(error), ")");
    default:
      return X509_verify_cert_error_string(error);
  }
}

// Alerts with which a server refuses a client's certificate, or the lack of one.
bool ConcernsCertificate(int alert) {
  return (alert >= SSL_AD_BAD_CERTIFICATE && alert <= SSL_AD_CERTIFICATE_UNKNOWN) ||
         alert == SSL_AD_HANDSHAKE_FAILURE || alert == SSL_AD_UNKNOWN_CA ||
         alert == SSL_AD_ACCESS_DENIED || alert == SSL_AD_DECRYPT_ERROR ||
         alert == TLS13_AD_CERTIFICATE_REQUIRED;
}

}  // namespace

void TlsClient::Free::operator()(ssl_ctx_st* context) const { SSL_CTX_free(context); }

absl::StatusOr<TlsClient::Handle> TlsClient::NewContext() {
  Handle context(SSL_CTX_new(TLS_client_method()));
  if (context == nullptr || SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION) != 1) {
    return absl::InternalError("OpenSSL cannot make a TLS context");
  }
  SSL_CTX_set_mode(context.get(),
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_client_cert_cb(context.get(), [](SSL* ssl, X509**, EVP_PKEY**) {
    // Called only where no certificate was given.
    static_cast<TlsSession*>(SSL_get_app_data(ssl))->lacks_certificate_ = true;
    return 0;
  });
  return context;
}

absl::StatusOr<std::unique_ptr<const TlsClient>> TlsClient::Create(const ClientTls& tls) {
  FEDUMM_ASSIGN_OR_RETURN(Handle context, NewContext());
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, [](int ok, X509_STORE_CTX* store_context) {
    return TlsSession::Verify(ok, store_context);
  });
  if (tls.root_certificates.empty()) {
    SSL_CTX_set_default_verify_paths(context.get());
  } else {
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<PemCertificate> roots,
                            ReadPemCertificates(tls.root_certificates, "the root certificates"));
    for (const PemCertificate& root : roots) {
      X509_STORE_add_cert(SSL_CTX_get_cert_store(context.get()), root.get());
    }
  }
  if (tls.certificate_chain.empty() != tls.private_key.empty()) {
    return absl::InvalidArgumentError(
        "a client certificate and its private key must be given together");
  }
  if (!tls.certificate_chain.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(
        const std::vector<PemCertificate> chain,
        ReadPemCertificates(tls.certificate_chain, "the client's certificates"));
    const PemKey key = ReadPemPrivateKey(tls.private_key);
    if (key == nullptr) {
      return absl::InvalidArgumentError(
          "the client's private key is no PEM key, or it has a passphrase");
    }
    if (SSL_CTX_use_certificate(context.get(), chain.front().get()) != 1) {
      return absl::InvalidArgumentError("the client's certificate cannot be used");
    }
    for (size_t i = 1; i < chain.size(); ++i) {
      SSL_CTX_add1_chain_cert(context.get(), chain[i].get());
    }
    if (SSL_CTX_use_PrivateKey(context.get(), key.get()) != 1) {
      ERR_clear_error();
      return absl::InvalidArgumentError(
          "the client's private key does not belong to its certificate");
    }
  }
  return std::unique_ptr<const TlsClient>(new TlsClient(std::move(context)));
}

absl::StatusOr<std::unique_ptr<const TlsClient>> TlsClient::CreateUnchecked() {
  FEDUMM_ASSIGN_OR_RETURN(Handle context, NewContext());
  return std::unique_ptr<const TlsClient>(new TlsClient(std::move(context)));
}

void TlsSession::Free::operator()(ssl_st* session) const { SSL_free(session); }

absl::StatusOr<std::unique_ptr<TlsSession>> TlsSession::Create(const TlsClient& client, int fd,
                                                               const std::string& host,
                                                               std::string server,
                                                               std::string_view protocols) {
  std::unique_ptr<TlsSession> session(new TlsSession(std::move(server)));
  SSL* const ssl = SSL_new(client.context());
  session->ssl_.reset(ssl);
  BIO* const bio = BIO_new(SocketWithoutSignals());
  if (ssl == nullptr || bio == nullptr) return absl::InternalError("OpenSSL has no memory");
  BIO_set_fd(bio, fd, BIO_NOCLOSE);
  SSL_set_bio(ssl, bio, bio);
  SSL_set_app_data(ssl, session.get());
  X509_VERIFY_PARAM* const checks = SSL_get0_param(ssl);
  X509_VERIFY_PARAM_set_hostflags(checks, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  if (X509_VERIFY_PARAM_set1_ip_asc(checks, host.c_str()) != 1) {  // then it is a name
    ERR_clear_error();
    if (X509_VERIFY_PARAM_set1_host(checks, host.data(), host.size()) != 1 ||
        SSL_set_tlsext_host_name(ssl, host.c_str()) != 1) {
      ERR_clear_error();
      return absl::InvalidArgumentError(absl::StrCat("no host name: ", Printable(host)));
    }
  }
  SSL_set_alpn_protos(ssl, reinterpret_cast<const unsigned char*>(protocols.data()),
                      static_cast<unsigned>(protocols.size()));
  return session;
}

TlsSession::~TlsSession() {
  if (established_ && !broken_) SSL_shutdown(ssl_.get());  // sends close_notify, waits for none
  ERR_clear_error();
}

absl::StatusOr<TlsSession::Step> TlsSession::Handshake() {
  ERR_clear_error();
  FEDUMM_ASSIGN_OR_RETURN(const Step step, StepOf(SSL_connect(ssl_.get())));
  if (step == Step::kDone) established_ = true;
  return step;
}

absl::StatusOr<TlsSession::Step> TlsSession::Read(char* data, size_t size, size_t& done) {
  ERR_clear_error();
  return StepOf(SSL_read_ex(ssl_.get(), data, size, &done));
}

absl::StatusOr<TlsSession::Step> TlsSession::Write(std::string_view bytes, size_t& done) {
  ERR_clear_error();
  return StepOf(SSL_write_ex(ssl_.get(), bytes.data(), bytes.size(), &done));
}

bool TlsSession::IsSilent() {
  ERR_clear_error();
  char byte = 0;
  size_t done = 0;  // a peek also takes in what is no data, such as session tickets
  const absl::StatusOr<Step> step = StepOf(SSL_peek_ex(ssl_.get(), &byte, 1, &done));
  return step.ok() && *step == Step::kReadable;
}

std::string_view TlsSession::protocol() const {
  const unsigned char* name = nullptr;
  unsigned size = 0;
  SSL_get0_alpn_selected(ssl_.get(), &name, &size);
  return {reinterpret_cast<const char*>(name), size};
}

absl::StatusOr<TlsSession::Step> TlsSession::StepOf(int result) {
  if (result == 1) return Step::kDone;
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      return Step::kReadable;
    case SSL_ERROR_WANT_WRITE:
      return Step::kWritable;
    case SSL_ERROR_ZERO_RETURN:
      return Step::kEnd;
    default:
      broken_ = true;
      return Failure();
  }
}

absl::Status TlsSession::Failure() const {
  const unsigned long error = ERR_peek_error();
  const int reason = ERR_GET_REASON(error);
  if (!certificate_trouble_.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the certificate of ", server_, " is refused: ", certificate_trouble_));
  }
  if (ERR_GET_LIB(error) != ERR_LIB_SSL || reason == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
    if (lacks_certificate_) {
      return absl::FailedPreconditionError(absl::StrCat(
          server_, " requires a client certificate, got none and closed the connection"));
    }
    return absl::UnavailableError(absl::StrCat(server_, " closed the connection",
                                               established_ ? "" : " during the TLS handshake"));
  }
  const int alert = reason - SSL_AD_REASON_OFFSET;
  if (alert == TLS13_AD_CERTIFICATE_REQUIRED ||
      (lacks_certificate_ && ConcernsCertificate(alert))) {
    return absl::FailedPreconditionError(
        absl::StrCat(server_, " requires a client certificate, and none was given"));
  }
  if (alert > 0 && ConcernsCertificate(alert) && alert != SSL_AD_HANDSHAKE_FAILURE) {
    return absl::FailedPreconditionError(absl::StrCat(
        server_, " refused the client certificate: ", SSL_alert_desc_string_long(alert)));
  }
  if (!established_ && (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST ||
                        reason == SSL_R_PACKET_LENGTH_TOO_LONG)) {
    return absl::FailedPreconditionError(
        absl::StrCat(server_, " does not speak TLS: it answered the handshake in plaintext"));
  }
  const char* const text = ERR_reason_error_string(error);
  const std::string line =
      absl::StrCat("TLS with ", server_, " failed: ", text != nullptr ? text : "unknown reason");
  // A connection that breaks later is a matter of that connection.
  return established_ ? absl::UnavailableError(line) : absl::FailedPreconditionError(line);
}

int TlsSession::Verify(int ok, void* store_context) {
  auto* const context = static_cast<X509_STORE_CTX*>(store_context);
  if (ok != 1) {
    auto* const ssl = static_cast<SSL*>(
        X509_STORE_CTX_get_ex_data(context, SSL_get_ex_data_X509_STORE_CTX_idx()));
    auto* const session = static_cast<TlsSession*>(SSL_get_app_data(ssl));
    if (session->certificate_trouble_.empty()) {
      session->certificate_trouble_ = CertificateTrouble(X509_STORE_CTX_get_error(context),
                                                         X509_STORE_CTX_get_current_cert(context));
    }
  }
  return ok;
}

}  // namespace fedumm::transport
