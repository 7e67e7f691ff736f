#pragma once

#include "absl/status/statusor.h"
#include "transport/connection.h"
#include "transport/tls_client.h"

namespace fedumm::transport {

enum class HttpVersion {
  kOne,  // of Flower's HTTP API
  kTwo,  // of gRPC
};

// What a client would accept.
struct Acceptable {
  bool one = true;
  bool two = true;
};

// Finds out what answers at `server`, without a call of its API; `tls` null: in plaintext.
// FAILED_PRECONDITION, in one line for a person, if it is nothing that trying again could turn into
// a SuperLink: a certificate that is refused, TLS where plaintext was expected or the reverse,
// another protocol. UNAVAILABLE, DEADLINE_EXCEEDED: nobody is there yet. CANCELLED.
absl::StatusOr<HttpVersion> Probe(const HostPort& server, const TlsClient* tls,
                                  Acceptable acceptable, const Until& until);

}  // namespace fedumm::transport
