#include "link/node_auth.h"

#include <openssl/bn.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#include <memory>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/ec_key.h"
#include "base/status_macros.h"
#include "link/fingerprint.h"

namespace fedumm::link {
namespace {

constexpr size_t kMaxKeyBytes = 512;  // the PEM of a P-521 key has 268
constexpr size_t kMaxKeys = 8192;     // parsed ones, of some 2 kB each
constexpr size_t kMaxTimestampBytes = 64;
constexpr size_t kMaxSignatureBytes = 256;
constexpr absl::Duration kOldest = absl::Seconds(305);
constexpr absl::Duration kMostAhead = absl::Seconds(5);

struct Free {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  void operator()(ECDSA_SIG* signature) const { ECDSA_SIG_free(signature); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

const unsigned char* Raw(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

bool SignatureFits(const Caller& caller, evp_pkey_st* key) {
  const Owned<EVP_MD_CTX> context(EVP_MD_CTX_new());
  const bool fits = EVP_DigestVerifyInit(context.get(), nullptr, EVP_sha256(), nullptr, key) == 1 &&
                    EVP_DigestVerify(context.get(), Raw(caller.signature), caller.signature.size(),
                                     Raw(caller.timestamp), caller.timestamp.size()) == 1;
  ERR_clear_error();
  return fits;
}

absl::StatusOr<absl::Time> ParseTimestamp(const std::string& timestamp) {
  absl::Time time;
  if (absl::ParseTime(absl::RFC3339_full, timestamp, &time, nullptr)) return time;
  return absl::UnauthenticatedError("the timestamp is not ISO 8601 with a zone");
}

// Names a signature by its number r alone: whoever saw (r, s) can write another valid s.
uint64_t FingerprintOf(const Caller& caller) {
  const unsigned char* at = Raw(caller.signature);
  const Owned<ECDSA_SIG> signature(
      d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(caller.signature.size())));
  std::string text = absl::StrCat(caller.public_key, "\n", caller.timestamp, "\n");
  if (signature != nullptr) {
    const BIGNUM* r = ECDSA_SIG_get0_r(signature.get());
    std::string bytes(static_cast<size_t>(BN_num_bytes(r)), '\0');
    BN_bn2bin(r, reinterpret_cast<unsigned char*>(bytes.data()));
    text += bytes;
  }
  return Fingerprint(text);
}

}  // namespace

absl::Status NodeAuth::Check(const Caller& caller) {
  FEDUMM_RETURN_IF_ERROR(CheckSignature(caller));
  return RememberSignature(caller);
}

absl::Status NodeAuth::CheckHead(const Caller& caller) {
  FEDUMM_RETURN_IF_ERROR(CheckSignature(caller));
  const uint64_t fingerprint = FingerprintOf(caller);
  MutexLock lock(mu_);
  if (!seen_.contains(fingerprint) && !seen_before_.contains(fingerprint)) return absl::OkStatus();
  return absl::UnauthenticatedError("the signature was used before");
}

absl::Status NodeAuth::CheckSignature(const Caller& caller) {
  if (caller.public_key.empty() || caller.timestamp.empty() || caller.signature.empty()) {
    return absl::UnauthenticatedError("the call carries no key, timestamp or signature");
  }
  if (caller.public_key.size() > kMaxKeyBytes || caller.timestamp.size() > kMaxTimestampBytes ||
      caller.signature.size() > kMaxSignatureBytes) {
    return absl::UnauthenticatedError("key, timestamp or signature is too long");
  }
  FEDUMM_ASSIGN_OR_RETURN(const absl::Time signed_at, ParseTimestamp(caller.timestamp));
  const absl::Time now = options_.clock();
  const absl::Duration age = now - signed_at;
  if (age > kOldest || age < -kMostAhead) {
    return absl::UnauthenticatedError(absl::StrCat("the clocks differ: the call was signed at ",
                                                   absl::FormatTime(signed_at, absl::UTCTimeZone()),
                                                   ", the server has ",
                                                   absl::FormatTime(now, absl::UTCTimeZone())));
  }
  std::shared_ptr<evp_pkey_st> key = FindKey(caller.public_key);
  const bool is_new = key == nullptr;
  if (is_new) key = ReadPublicKeyPem(caller.public_key);
  if (key == nullptr || !SignatureFits(caller, key.get())) {
    return absl::UnauthenticatedError("the signature does not fit the key and timestamp");
  }
  if (is_new) RememberKey(caller.public_key, std::move(key));
  return absl::OkStatus();
}

absl::Time NodeAuth::SignedAt(const Caller& caller) {
  return ParseTimestamp(caller.timestamp).value_or(absl::InfiniteFuture());
}

std::shared_ptr<evp_pkey_st> NodeAuth::FindKey(const std::string& public_key) {
  MutexLock lock(mu_);
  const auto it = keys_.find(public_key);
  return it == keys_.end() ? nullptr : it->second.key;
}

void NodeAuth::RememberKey(const std::string& public_key, std::shared_ptr<evp_pkey_st> key) {
  std::shared_ptr<evp_pkey_st> evicted;  // freed after the lock is released
  MutexLock lock(mu_);
  if (keys_.size() >= kMaxKeys) {
    const auto any = keys_.begin();
    evicted = std::move(any->second.key);
    keys_.erase(any);
  }
  keys_.try_emplace(public_key, KnownKey{.key = std::move(key)});
}

absl::Status NodeAuth::RememberSignature(const Caller& caller) {
  const uint64_t fingerprint = FingerprintOf(caller);
  absl::flat_hash_set<uint64_t> evicted;  // freed after the lock is released
  MutexLock lock(mu_);
  if (const absl::Time now = options_.timer(); now - began_ > kOldest + kMostAhead) {
    evicted = std::exchange(seen_before_, std::exchange(seen_, {}));
    began_ = now;
    ++generation_;
  }
  if (seen_.contains(fingerprint) || seen_before_.contains(fingerprint)) {
    return absl::UnauthenticatedError("the signature was used before");
  }
  if (seen_.size() >= options_.max_signatures) {
    return absl::UnavailableError("too many calls in the last minutes, try again later");
  }
  if (const auto it = keys_.find(caller.public_key); it != keys_.end()) {
    KnownKey& key = it->second;
    if (std::exchange(key.generation, generation_) != generation_) key.signatures = 0;
    if (key.signatures >= options_.max_signatures_of_key) {
      return absl::UnavailableError("too many calls of this key in the last minutes");
    }
    ++key.signatures;
  }
  seen_.insert(fingerprint);
  return absl::OkStatus();
}

}  // namespace fedumm::link
