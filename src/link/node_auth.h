#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/mutex.h"

struct evp_pkey_st;  // OpenSSL's EVP_PKEY

namespace fedumm::link {

// The identity that a caller claims: what a node attaches to each call.
struct Caller {
  // A peer of a transport that carries no keys. It can act only for nodes that joined
  // over such a transport.
  static Caller Keyless() { return {.keyless = true}; }

  std::string public_key;  // PEM of an EC public key, as sent
  std::string timestamp;   // ISO 8601 with a zone
  std::string signature;   // DER, ECDSA-SHA256 over `timestamp`
  bool keyless = false;    // nothing of the above
  std::string address;     // host:port of the peer, if known
};

// Checks that a caller holds the private key of the public key that it names, now. A signature is
// accepted for one call. Thread-safe.
class NodeAuth {
 public:
  struct Options {
    std::function<absl::Time()> clock = absl::Now;  // wall time: nodes sign theirs
    std::function<absl::Time()> timer = absl::Now;  // how long a signature is remembered
    // What is remembered of five minutes, twice: 7 << 20 fill a table of 75 MB.
    size_t max_signatures = size_t{7} << 20;
    size_t max_signatures_of_key = size_t{1} << 19;  // so that no node takes all of it
  };
  explicit NodeAuth(Options options) : options_(std::move(options)) {}

  // UNAUTHENTICATED with the reason, or UNAVAILABLE if too many calls were made to remember them.
  // Ask first whether the key is one that may call: each call that passes takes memory.
  absl::Status Check(const Caller& caller);
  // The same before the call is read, when only its head is there: the signature may be used again.
  absl::Status CheckHead(const Caller& caller);
  // When a call that passed Check was signed, by the node's clock.
  static absl::Time SignedAt(const Caller& caller);

 private:
  absl::Status CheckSignature(const Caller& caller);
  std::shared_ptr<evp_pkey_st> FindKey(const std::string& public_key);
  void RememberKey(const std::string& public_key, std::shared_ptr<evp_pkey_st> key);
  absl::Status RememberSignature(const Caller& caller);

  struct KnownKey {
    std::shared_ptr<evp_pkey_st> key;
    uint64_t generation = 0;  // that `signatures` counts
    size_t signatures = 0;
  };

  const Options options_;
  Mutex mu_;
  // Of callers that proved to hold them: reading a key takes half as long as checking a signature.
  absl::flat_hash_map<std::string, KnownKey> keys_ ABSL_GUARDED_BY(mu_);
  // Fingerprints of signatures that came since `began_`, and in the generation before.
  absl::flat_hash_set<uint64_t> seen_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<uint64_t> seen_before_ ABSL_GUARDED_BY(mu_);
  absl::Time began_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  uint64_t generation_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace fedumm::link
