#include "link/node_auth.h"

#include <gmock/gmock.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/obj_mac.h>
#include <openssl/pem.h>

#include <memory>

#include "tests/testing/status_matchers.h"

namespace fedumm::link {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

class Key {
 public:
  explicit Key(const char* curve) : key_(EVP_EC_gen(curve)) {}
  ~Key() { EVP_PKEY_free(key_); }
  Key(const Key&) = delete;
  Key& operator=(const Key&) = delete;

  std::string Pem() const {
    BIO* bio = BIO_new(BIO_s_mem());
    PEM_write_bio_PUBKEY(bio, key_);
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio, &data);
    std::string pem(data, static_cast<size_t>(size));
    BIO_free(bio);
    return pem;
  }
  Caller Sign(const std::string& timestamp) const {
    EVP_MD_CTX* context = EVP_MD_CTX_new();
    size_t size = 256;
    std::string signature(size, '\0');
    EVP_DigestSignInit(context, nullptr, EVP_sha256(), nullptr, key_);
    EVP_DigestSign(context, reinterpret_cast<unsigned char*>(signature.data()), &size,
                   reinterpret_cast<const unsigned char*>(timestamp.data()), timestamp.size());
    EVP_MD_CTX_free(context);
    signature.resize(size);
    return {Pem(), timestamp, signature};
  }

 private:
  EVP_PKEY* key_;
};

// (r, n - s): as good a signature as (r, s).
std::string OtherForm(const std::string& der) {
  const auto* at = reinterpret_cast<const unsigned char*>(der.data());
  ECDSA_SIG* signature = d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(der.size()));
  EC_GROUP* group = EC_GROUP_new_by_curve_name(NID_X9_62_prime256v1);
  BIGNUM* s = BN_dup(ECDSA_SIG_get0_s(signature));
  BN_sub(s, EC_GROUP_get0_order(group), s);
  ECDSA_SIG_set0(signature, BN_dup(ECDSA_SIG_get0_r(signature)), s);
  unsigned char* out = nullptr;
  const int size = i2d_ECDSA_SIG(signature, &out);
  std::string other(reinterpret_cast<char*>(out), static_cast<size_t>(size));
  OPENSSL_free(out);
  ECDSA_SIG_free(signature);
  EC_GROUP_free(group);
  return other;
}

class NodeAuthTest : public ::testing::Test {
 protected:
  static constexpr char kNow[] = "2026-11-23T12:00:00.000000+00:00";
  absl::Time now_ = absl::FromCivil(absl::CivilSecond(2026, 11, 23, 12, 0, 0), absl::UTCTimeZone());
  absl::Time timer_ = absl::UnixEpoch();
  NodeAuth::Options Options() {
    return {.clock = [this] { return now_; }, .timer = [this] { return timer_; }};
  }
  NodeAuth auth_{Options()};
  Key key_{"P-256"};
};

TEST_F(NodeAuthTest, EachCurveOfFlowerIsAccepted) {
  for (const char* curve : {"P-256", "P-384", "P-521", "secp256k1"}) {
    EXPECT_THAT(auth_.Check(Key(curve).Sign(kNow)), IsOk()) << curve;
  }
}

TEST_F(NodeAuthTest, OtherKeysAreRefused) {
  EXPECT_THAT(auth_.Check(Key("brainpoolP256r1").Sign(kNow)),
              StatusIs(absl::StatusCode::kUnauthenticated));
  Caller garbage = key_.Sign(kNow);
  garbage.public_key = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
  EXPECT_THAT(auth_.Check(garbage), StatusIs(absl::StatusCode::kUnauthenticated));
  garbage.public_key.assign(5000, 'A');
  EXPECT_THAT(auth_.Check(garbage), StatusIs(absl::StatusCode::kUnauthenticated));
}

TEST_F(NodeAuthTest, TimesWithinTheWindowAreAccepted) {
  for (const char* time :
       {"2026-11-23T11:54:55.000000+00:00", "2026-11-23T12:00:05.000000+00:00",
        "2026-11-23T12:00:00Z", "2026-11-23T13:00:00.5+01:00", "2026-11-23T06:59:59-05:00"}) {
    EXPECT_THAT(auth_.Check(key_.Sign(time)), IsOk()) << time;
  }
}

TEST_F(NodeAuthTest, F8_TimesOutsideTheWindowAreRefusedWithBothClocks) {
  for (const char* time : {"2026-11-23T11:54:54.900000+00:00", "2026-11-23T12:00:05.100000+00:00",
                           "2026-11-23T12:10:00+00:00"}) {
    EXPECT_THAT(auth_.Check(key_.Sign(time)),
                StatusIs(absl::StatusCode::kUnauthenticated,
                         AllOf(HasSubstr("clocks differ"), HasSubstr("2026-11-23T12:00:00+00:00"))))
        << time;
  }
}

TEST_F(NodeAuthTest, TimesThatAreNoneAreRefused) {
  for (const char* time : {"2026-11-23T12:00:00.000000", "noon", "infinite-future", ""}) {
    EXPECT_THAT(auth_.Check(key_.Sign(time)), StatusIs(absl::StatusCode::kUnauthenticated)) << time;
  }
}

TEST_F(NodeAuthTest, SignatureOfAnotherKeyOrTimeIsRefused) {
  Caller caller = key_.Sign(kNow);
  caller.public_key = Key("P-256").Pem();
  EXPECT_THAT(auth_.Check(caller), StatusIs(absl::StatusCode::kUnauthenticated));
  caller = key_.Sign(kNow);
  caller.timestamp = "2026-11-23T12:00:00.000001+00:00";
  EXPECT_THAT(auth_.Check(caller), StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_THAT(auth_.Check(key_.Sign(caller.timestamp)), IsOk());
}

TEST_F(NodeAuthTest, F7_SignatureIsGoodForOneCall) {
  const Caller caller = key_.Sign(kNow);
  EXPECT_THAT(auth_.Check(caller), IsOk());
  now_ += absl::Seconds(300);
  timer_ += absl::Seconds(300);
  EXPECT_THAT(auth_.Check(caller), StatusIs(absl::StatusCode::kUnauthenticated));
  // Two threads of one node may sign the same microsecond, and call in any order.
  EXPECT_THAT(auth_.Check(key_.Sign(kNow)), IsOk());
  EXPECT_THAT(auth_.Check(key_.Sign("2026-11-23T11:59:59+00:00")), IsOk());
}

TEST_F(NodeAuthTest, F7_SignatureIsRememberedWhileItMayBeUsed) {
  const Caller first = key_.Sign(kNow);
  EXPECT_THAT(auth_.Check(first), IsOk());
  timer_ += absl::Seconds(309);
  const Caller late = key_.Sign("2026-11-23T12:00:01+00:00");
  EXPECT_THAT(auth_.Check(late), IsOk());
  // The wall clock stands still, and the second one was let in at the end of the first generation.
  timer_ += absl::Seconds(309);
  EXPECT_THAT(auth_.Check(key_.Sign("2026-11-23T12:00:02+00:00")), IsOk());
  EXPECT_THAT(auth_.Check(late), StatusIs(absl::StatusCode::kUnauthenticated));
}

TEST_F(NodeAuthTest, OneKeyCannotTakeAllTheRoom) {
  NodeAuth::Options options = Options();
  options.max_signatures = 5;
  options.max_signatures_of_key = 3;
  NodeAuth auth(options);
  for (int i = 0; i < 3; ++i) EXPECT_THAT(auth.Check(key_.Sign(kNow)), IsOk());
  EXPECT_THAT(auth.Check(key_.Sign(kNow)), StatusIs(absl::StatusCode::kUnavailable));
  const Key other("P-256");
  for (int i = 0; i < 2; ++i) EXPECT_THAT(auth.Check(other.Sign(kNow)), IsOk());
  EXPECT_THAT(auth.Check(other.Sign(kNow)), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(NodeAuthTest, RoomComesBackWithTimeWhateverTheWallClockDoes) {
  NodeAuth::Options options = Options();
  options.max_signatures = 1;
  options.max_signatures_of_key = 1;
  NodeAuth auth(options);
  EXPECT_THAT(auth.Check(key_.Sign(kNow)), IsOk());
  EXPECT_THAT(auth.Check(key_.Sign(kNow)), StatusIs(absl::StatusCode::kUnavailable));
  timer_ += absl::Seconds(311);
  now_ -= absl::Hours(1);
  EXPECT_THAT(auth.Check(key_.Sign("2026-11-23T11:00:00Z")), IsOk());
}

TEST_F(NodeAuthTest, F7_SignatureInItsOtherFormIsNoNewOne) {
  Caller caller = key_.Sign(kNow);
  Caller other = caller;
  other.signature = OtherForm(caller.signature);
  ASSERT_NE(other.signature, caller.signature);
  EXPECT_THAT(NodeAuth(Options()).Check(other), IsOk());
  EXPECT_THAT(auth_.Check(caller), IsOk());
  EXPECT_THAT(auth_.Check(other), StatusIs(absl::StatusCode::kUnauthenticated));
}

}  // namespace
}  // namespace fedumm::link
