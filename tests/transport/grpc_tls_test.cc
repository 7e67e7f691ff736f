// TLS between our own gRPC ends: what passes, and what one clear error it is when it does not.
#include <gmock/gmock.h>

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "fedumm/super_link.h"
#include "node/node_key.h"
#include "tests/testing/status_matchers.h"
#include "tests/transport/test_certificates.h"
#include "transport/grpc_client.h"

namespace fedumm {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::PemPair;
using ::fedumm::testing::StatusIs;
using ::fedumm::testing::TestAuthority;
using ::testing::Not;

class GrpcTlsTest : public ::testing::Test {
 protected:
  void StartLink(const PemPair& pair, const std::string& client_ca = "") {
    ASSERT_OK_AND_ASSIGN(
        link_, SuperLink::Start({.tls = ServerTls{pair.certificate, pair.private_key, client_ca}}));
  }
  absl::Status Register(const ClientTls* tls, const std::string& host = "127.0.0.1") {
    const auto client = NewGrpcFleetClient(
        {.server = {host, static_cast<uint16_t>(link_->fleet_port())}, .proxy = std::nullopt}, tls,
        key_, {});
    flwr::proto::RegisterNodeFleetRequest request;
    request.set_public_key(key_.public_key_pem());
    return client->RegisterNode(request, {.timeout = absl::Seconds(20)}).status();
  }
  ClientTls Trusting() const { return {.root_certificates = authority_.certificate()}; }

  const TestAuthority authority_;
  const NodeKey key_ = *NodeKey::Generate();
  std::unique_ptr<SuperLink> link_;
};

TEST_F(GrpcTlsTest, ATrustedServerIsTalkedTo) {
  StartLink(authority_.Issue());
  const ClientTls tls = Trusting();
  EXPECT_THAT(Register(&tls), IsOk());
  EXPECT_THAT(Register(&tls, "localhost"), IsOk());
}

TEST_F(GrpcTlsTest, ACertificateOfAnotherCaFailsForGood) {
  StartLink(authority_.Issue());
  const TestAuthority stranger;
  const ClientTls tls{.root_certificates = stranger.certificate()};
  EXPECT_THAT(Register(&tls), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(GrpcTlsTest, ACertificateForAnotherHostFailsForGood) {
  StartLink(authority_.Issue({.names = "DNS:elsewhere.example"}));
  const ClientTls tls = Trusting();
  EXPECT_THAT(Register(&tls), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(GrpcTlsTest, AnExpiredCertificateFailsForGood) {
  StartLink(authority_.Issue({.valid_for_s = -60}));
  const ClientTls tls = Trusting();
  EXPECT_THAT(Register(&tls), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(GrpcTlsTest, PlaintextToATlsPortFails) {
  StartLink(authority_.Issue());
  EXPECT_THAT(Register(nullptr), Not(IsOk()));
}

TEST_F(GrpcTlsTest, TlsToAPlaintextPortFailsForGood) {
  ASSERT_OK_AND_ASSIGN(link_, SuperLink::Start({.insecure = true}));
  const ClientTls tls = Trusting();
  EXPECT_THAT(Register(&tls), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(GrpcTlsTest, AClientCertificateIsAskedForWhereThereIsAClientCa) {
  StartLink(authority_.Issue(), authority_.certificate());
  ClientTls tls = Trusting();
  EXPECT_THAT(Register(&tls), Not(IsOk()));

  const TestAuthority stranger;
  PemPair own = stranger.Issue();
  tls.certificate_chain = own.certificate;
  tls.private_key = own.private_key;
  EXPECT_THAT(Register(&tls), Not(IsOk()));

  own = authority_.Issue();
  tls.certificate_chain = own.certificate;
  tls.private_key = own.private_key;
  EXPECT_THAT(Register(&tls), IsOk());
}

TEST_F(GrpcTlsTest, CertificatesThatCannotBeUsedAreInvalid) {
  const PemPair good = authority_.Issue();
  const PemPair other = authority_.Issue();
  for (const ServerTls& tls :
       {ServerTls{}, ServerTls{"nonsense", good.private_key},
        ServerTls{good.certificate, "nonsense"}, ServerTls{good.certificate, other.private_key},
        ServerTls{good.certificate, good.private_key, "nonsense"}}) {
    EXPECT_THAT(SuperLink::Start({.tls = tls}), StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

}  // namespace
}  // namespace fedumm
