#pragma once

#include "absl/status/status.h"
#include "fedumm/tls.h"

namespace fedumm::transport {

// INVALID_ARGUMENT, naming the option, for texts that no TLS connection can be made with: not PEM,
// a key with a passphrase, a key of another certificate. Whether a certificate is trusted, in time
// or for the right host only its peer can tell.
absl::Status CheckServerTls(const ServerTls& tls);

}  // namespace fedumm::transport
