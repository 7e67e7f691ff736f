#pragma once

#include "absl/status/statusor.h"
#include "transport/connection.h"
#include "transport/proxy.h"
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

// Finds out what answers at the end of `route`, without a call of its API; `tls` null: in
// plaintext. FAILED_PRECONDITION, in one line for a person, if another try cannot find a SuperLink:
// a certificate that is refused, TLS where plaintext was expected or the reverse, another protocol,
// a proxy that refuses. UNAVAILABLE, DEADLINE_EXCEEDED: there is no answer yet. CANCELLED.
absl::StatusOr<HttpVersion> Probe(const Route& route, const TlsClient* tls, Acceptable acceptable,
                                  const Until& until);

// One failure for two ways to a server, both of which failed: FAILED_PRECONDITION only if both are.
absl::Status EitherFailure(const absl::Status& one, const absl::Status& other);

}  // namespace fedumm::transport
