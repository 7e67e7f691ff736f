#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/numeric/int128.h"
#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/mutex.h"

struct evp_pkey_st;  // OpenSSL's EVP_PKEY

namespace fedumm::link {

// Who says that they are calling: what a node attaches to each call.
struct Caller {
  // A peer of a transport that carries no keys. It can speak for nodes that came in that way only.
  static Caller Keyless() { return {.keyless = true}; }

  std::string public_key;  // PEM of an EC public key, as sent
  std::string timestamp;   // ISO 8601 with a zone
  std::string signature;   // DER, ECDSA-SHA256 over `timestamp`
  bool keyless = false;    // nothing of the above
};

// Checks that a caller holds the private key of the public key that it names, now. A signature is
// good for one call. Thread-safe.
class NodeAuth {
 public:
  // `clock` is wall time: nodes sign theirs.
  explicit NodeAuth(std::function<absl::Time()> clock = absl::Now) : clock_(std::move(clock)) {}

  // UNAUTHENTICATED with the reason, or UNAVAILABLE if too many calls were made to remember them.
  absl::Status Check(const Caller& caller);
  // When a call that passed Check was signed, by the node's clock.
  static absl::Time SignedAt(const Caller& caller);

 private:
  std::shared_ptr<evp_pkey_st> FindKey(const std::string& public_key);
  void RememberKey(const std::string& public_key, std::shared_ptr<evp_pkey_st> key);
  absl::Status RememberSignature(const Caller& caller, absl::Time now);

  const std::function<absl::Time()> clock_;
  Mutex mu_;
  // Of callers that proved to hold them: reading a key takes half as long as checking a signature.
  absl::flat_hash_map<std::string, std::shared_ptr<evp_pkey_st>> keys_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<absl::uint128> seen_ ABSL_GUARDED_BY(mu_);
  std::deque<std::pair<absl::Time, absl::uint128>> by_age_ ABSL_GUARDED_BY(mu_);
};

}  // namespace fedumm::link
