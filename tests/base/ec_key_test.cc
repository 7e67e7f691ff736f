#include "base/ec_key.h"

#include <gmock/gmock.h>
#include <openssl/evp.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/file.h"
#include "base/openssh_key.h"
#include "tests/testing/status_matchers.h"

namespace fedumm {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::IsOkAndHolds;
using ::testing::Not;
using testing::StatusIs;

std::string Load(const std::string& name) {
  return ReadFile(absl::StrCat(FEDUMM_TEST_DATA "/keys/", name), 1 << 20).value();
}

// Private keys beside which lies what Flower derives from them.
std::vector<std::string> GoodKeys() {
  constexpr char kExpected[] = ".pem.expected";
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(FEDUMM_TEST_DATA "/keys")) {
    std::string name = entry.path().filename().string();
    if (absl::EndsWith(name, kExpected)) names.push_back(name.substr(0, name.find(kExpected)));
  }
  return names;
}

auto Refused(const std::string& text) {
  return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(text));
}

TEST(EcKey, PrivateKeysHaveTheNamesThatFlowerGivesThem) {
  ASSERT_EQ(GoodKeys().size(), 9);
  for (const std::string& name : GoodKeys()) {
    ASSERT_OK_AND_ASSIGN(const EcKey key, ReadPrivateKey(Load(name)));
    EXPECT_THAT(PublicKeyPem(key.get()), IsOkAndHolds(Load(name + ".pem.expected"))) << name;
  }
}

TEST(EcKey, PublicKeysInBothFormsHaveOneName) {
  for (const std::string& name : GoodKeys()) {
    const std::string expected = Load(name + ".pem.expected");
    EXPECT_THAT(ParsePublicKey(expected), IsOkAndHolds(expected)) << name;
    if (name == "openssl_ecparam_p256") continue;
    EXPECT_THAT(ParsePublicKey(Load(name + ".pub")), IsOkAndHolds(expected)) << name;
  }
}

TEST(EcKey, CommentsAndBlanksAroundAnOpenSshLineDoNotMatter) {
  const std::string line = Load("ssh_keygen_p384.pub");  // "type base64 a comment\n"
  const std::string expected = Load("ssh_keygen_p384.pem.expected");
  EXPECT_THAT(ParsePublicKey(line.substr(0, line.find(" a comment"))), IsOkAndHolds(expected));
  EXPECT_THAT(ParsePublicKey(absl::StrCat("\n  ", absl::StrReplaceAll(line, {{" ", " \t "}}))),
              IsOkAndHolds(expected));
}

TEST(EcKey, WindowsLineEndsDoNotMatter) {
  for (const char* const name : {"ssh_keygen_p256", "python_sec1_p521"}) {
    ASSERT_OK_AND_ASSIGN(const EcKey key,
                         ReadPrivateKey(absl::StrReplaceAll(Load(name), {{"\n", "\r\n"}})));
    EXPECT_THAT(PublicKeyPem(key.get()), IsOkAndHolds(Load(absl::StrCat(name, ".pem.expected"))));
  }
  const std::string pem = Load("ssh_keygen_p384.pem.expected");
  EXPECT_THAT(ParsePublicKey(absl::StrReplaceAll(pem, {{"\n", "\r\n"}})), IsOkAndHolds(pem));
}

TEST(EcKey, RefusalsSayWhatThePrivateKeyIs) {
  EXPECT_THAT(ReadPrivateKey(Load("refused_passphrase_openssh")), Refused("has a passphrase"));
  EXPECT_THAT(ReadPrivateKey(Load("refused_passphrase_pkcs8")), Refused("has a passphrase"));
  EXPECT_THAT(ReadPrivateKey(Load("refused_passphrase_sec1")), Refused("has a passphrase"));
  EXPECT_THAT(ReadPrivateKey(Load("refused_rsa_openssh")),
              Refused("is RSA; Flower's node keys are EC"));
  EXPECT_THAT(ReadPrivateKey(Load("refused_rsa_pkcs8")), Refused("is RSA"));
  EXPECT_THAT(ReadPrivateKey(Load("refused_ed25519_openssh")), Refused("is Ed25519"));
  EXPECT_THAT(ReadPrivateKey(Load("refused_ed25519_pkcs8")), Refused("is Ed25519"));
  EXPECT_THAT(ReadPrivateKey(Load("refused_secp256k1_pkcs8")), Refused("the curve secp256k1"));
  EXPECT_THAT(ReadPrivateKey(Load("refused_brainpool_pkcs8")), Refused("the curve brainpool"));
  EXPECT_THAT(ReadPrivateKey(Load("ssh_keygen_p256.pub")), Refused("is a public key"));
  EXPECT_THAT(ReadPrivateKey(Load("ssh_keygen_p256.pem.expected")), Refused("is a public key"));
  EXPECT_THAT(ReadPrivateKey("-----BEGIN CERTIFICATE-----\n"), Refused("is a certificate"));
  EXPECT_THAT(ReadPrivateKey(""), Refused("holds no private key"));
  EXPECT_THAT(ReadPrivateKey("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
              Refused("damaged"));
  EXPECT_THAT(ReadPrivateKey(std::string(40'000, 'A')), Refused("40000"));
}

TEST(EcKey, RefusalsSayWhatThePublicKeyIs) {
  EXPECT_THAT(ParsePublicKey(Load("refused_rsa_openssh.pub")), Refused("is RSA"));
  EXPECT_THAT(ParsePublicKey(Load("refused_ed25519_openssh.pub")), Refused("is Ed25519"));
  EXPECT_THAT(ParsePublicKey(Load("ssh_keygen_p256")), Refused("is a private key"));
  EXPECT_THAT(ParsePublicKey("hello"), Refused("no public key"));
  EXPECT_THAT(ParsePublicKey("ssh-dss AAAA!"), Refused("no public key"));
  EXPECT_THAT(ParsePublicKey(""), Refused("no public key"));
  EXPECT_THAT(ParsePublicKey(Load("ssh_keygen_p256.pub") + Load("ssh_keygen_p384.pub")),
              Refused("one line"));
  EXPECT_THAT(ParsePublicKey("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
              Refused("damaged"));
}

TEST(EcKey, NoErrorQuotesAPrivateKey) {
  const std::string text = Load("ssh_keygen_p256");
  const std::string body = text.substr(text.find('\n') + 1, 64);
  const std::string cut = text.substr(0, text.size() / 2);
  EXPECT_THAT(ReadPrivateKey(cut), StatusIs(absl::StatusCode::kInvalidArgument,
                                            AllOf(HasSubstr("damaged"), Not(HasSubstr(body)))));
}

TEST(EcKey, FlippedBitsOfAnOpenSshKeyAreNoticed) {
  const std::string text = Load("ssh_keygen_p256");
  const std::optional<std::string> content = PemContent(text, "OPENSSH PRIVATE KEY");
  ASSERT_TRUE(content.has_value());
  const std::string& binary = *content;
  ASSERT_OK_AND_ASSIGN(const OpenSshKey intact, ParseOpenSshPrivateKey(binary));
  const size_t secret = binary.find(intact.secret);
  ASSERT_NE(secret, std::string::npos);
  for (size_t at = 0; at < binary.size(); ++at) {
    std::string damaged = binary;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    const auto parsed = ParseOpenSshPrivateKey(damaged);
    // What the format cannot tell, the curve does: of these bytes only the comment may differ.
    if (!parsed.ok() || parsed->encrypted) continue;
    const bool in_secret = at >= secret && at < secret + intact.secret.size();
    EXPECT_TRUE(in_secret || parsed->secret == intact.secret) << at;
  }
}

TEST(EcKey, PointOffTheCurveIsNoKey) {
  const std::string pem = Load("ssh_keygen_p256.pem.expected");
  ASSERT_NE(ReadPublicKeyPem(pem), nullptr);
  std::string damaged = pem;
  const size_t at = pem.find("-----END") - 10;  // within the y coordinate
  damaged[at] = damaged[at] == 'A' ? 'B' : 'A';
  EXPECT_EQ(ReadPublicKeyPem(damaged), nullptr);
  EXPECT_THAT(ParsePublicKey(damaged), Refused("damaged"));
}

TEST(EcKey, PublicKeyHasOneText) {
  const std::string pem = Load("ssh_keygen_p256.pem.expected");
  EXPECT_EQ(ReadPublicKeyPem(pem + "\n"), nullptr);
  EXPECT_EQ(ReadPublicKeyPem(absl::StrReplaceAll(pem, {{"\n", "\r\n"}})), nullptr);
  EXPECT_EQ(ReadPublicKeyPem("-----BEGIN PUBLIC KEY-----\n"), nullptr);
  EXPECT_EQ(ReadPublicKeyPem("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"), nullptr);
  EXPECT_EQ(ReadPublicKeyPem(""), nullptr);
}

}  // namespace
}  // namespace fedumm
