#include "node/node_key.h"

#include <gtest/gtest.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include "base/file.h"
#include "tests/testing/status_matchers.h"

namespace fedumm {
namespace {

// Whether OpenSSL accepts `signature` for `text` under a PEM public key.
bool Verifies(const std::string& pem, const std::string& text, const std::string& signature) {
  BIO* const memory = BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()));
  EVP_PKEY* const key = PEM_read_bio_PUBKEY(memory, nullptr, nullptr, nullptr);
  EVP_MD_CTX* const context = EVP_MD_CTX_new();
  const bool valid =
      key != nullptr && EVP_PKEY_get_base_id(key) == EVP_PKEY_EC &&
      EVP_DigestVerifyInit(context, nullptr, EVP_sha256(), nullptr, key) == 1 &&
      EVP_DigestVerify(context, reinterpret_cast<const unsigned char*>(signature.data()),
                       signature.size(), reinterpret_cast<const unsigned char*>(text.data()),
                       text.size()) == 1;
  EVP_MD_CTX_free(context);
  EVP_PKEY_free(key);
  BIO_free(memory);
  return valid;
}

TEST(NodeKey, SignsWhatItsPublicKeyVerifies) {
  ASSERT_OK_AND_ASSIGN(const NodeKey key, NodeKey::Generate());
  ASSERT_OK_AND_ASSIGN(const NodeKey other, NodeKey::Generate());
  const std::string text = "2026-11-23T12:15:30.042462+00:00";
  ASSERT_OK_AND_ASSIGN(const std::string signature, key.Sign(text));
  EXPECT_TRUE(Verifies(key.public_key_pem(), text, signature));
  EXPECT_FALSE(Verifies(key.public_key_pem(), text + " ", signature));
  EXPECT_FALSE(Verifies(other.public_key_pem(), text, signature));
}

TEST(NodeKey, KeyOfAFileSignsAsItsOwner) {
  for (const std::string name :
       {"ssh_keygen_p256", "ssh_keygen_p384", "ssh_keygen_p521", "python_pkcs8_p384"}) {
    const std::string path = FEDUMM_TEST_DATA "/keys/" + name;
    ASSERT_OK_AND_ASSIGN(const NodeKey key, NodeKey::Parse(ReadFile(path, 1 << 20).value()));
    ASSERT_OK_AND_ASSIGN(const std::string expected, ReadFile(path + ".pem.expected", 1 << 20));
    EXPECT_EQ(key.public_key_pem(), expected);
    ASSERT_OK_AND_ASSIGN(const std::string signature, key.Sign("now"));
    EXPECT_TRUE(Verifies(key.public_key_pem(), "now", signature)) << name;
  }
}

TEST(NodeKey, TextThatIsNoKeyIsRefused) {
  EXPECT_THAT(NodeKey::Parse("node.pem").status(),
              testing::StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(NodeKey, IsPemSubjectPublicKeyInfo) {
  ASSERT_OK_AND_ASSIGN(const NodeKey key, NodeKey::Generate());
  EXPECT_EQ(key.public_key_pem().rfind("-----BEGIN PUBLIC KEY-----\n", 0), 0);
  EXPECT_EQ(key.public_key_pem().size(), 178);  // as Flower's own nodes send it
}

TEST(NodeKey, EachSignatureDiffersFromTheLast) {
  ASSERT_OK_AND_ASSIGN(const NodeKey key, NodeKey::Generate());
  EXPECT_NE(*key.Sign("t"), *key.Sign("t"));
}

}  // namespace
}  // namespace fedumm
