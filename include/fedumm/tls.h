#pragma once

#include <string>

namespace fedumm {

// The certificate of a server. PEM texts, not paths.
struct ServerTls {
  std::string certificate_chain;  // the server's certificate first, then those that signed it
  std::string private_key;        // of the first certificate, without a passphrase
  std::string
      client_ca;  // not empty: peers must show a certificate that one of these signed (mTLS)
};

// How a client makes sure that it talks to the right server: the host name is always checked.
struct ClientTls {
  std::string root_certificates;  // PEM of the CAs that are trusted; empty: the system's
  // For servers that ask for a certificate (mTLS); empty otherwise.
  std::string certificate_chain;
  std::string private_key;
};

}  // namespace fedumm
