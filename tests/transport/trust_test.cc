// What a SuperLink demands before it serves, and known keys over every transport that carries them.
#include <gmock/gmock.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/mutex.h"
#include "fedumm/super_link.h"
#include "fedumm/super_node.h"
#include "tests/testing/status_matchers.h"
#include "tests/transport/test_certificates.h"

namespace fedumm {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;
using testing::TestAuthority;

std::string KeyFile(const std::string& name) {
  return ReadFile(absl::StrCat(FEDUMM_TEST_DATA "/keys/", name), 1 << 20).value();
}

ServerTls Tls(const TestAuthority& authority) {
  const testing::PemPair server = authority.Issue();
  return {.certificate_chain = server.certificate, .private_key = server.private_key};
}

TEST(SuperLinkTrustTest, PlaintextMustBeAskedFor) {
  EXPECT_THAT(SuperLink::Start({}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("insecure")));
}

TEST(SuperLinkTrustTest, CertificateAndPlaintextExcludeEachOther) {
  const TestAuthority authority;
  EXPECT_THAT(SuperLink::Start({.tls = Tls(authority), .insecure = true}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("exclude")));
}

TEST(SuperLinkTrustTest, KnownKeysNeedTls) {
  EXPECT_THAT(SuperLink::Start({.insecure = true, .enable_supernode_auth = true}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("`tls`")));
}

TEST(SuperLinkTrustTest, KnownKeysExcludeTheAdapter) {
  const TestAuthority authority;
  EXPECT_THAT(SuperLink::Start({.grpc_adapter_address = "127.0.0.1:0",
                                .tls = Tls(authority),
                                .enable_supernode_auth = true}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("grpc-adapter")));
}

TEST(SuperLinkTrustTest, SomeTransportMustBeServed) {
  EXPECT_THAT(SuperLink::Start({.fleet_api_address = "", .insecure = true}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("transport")));
}

TEST(SuperLinkTrustTest, KeysCannotBeAllowedWhereAnyMayJoin) {
  ASSERT_OK_AND_ASSIGN(const auto link, SuperLink::Start({.insecure = true}));
  EXPECT_THAT(link->AllowKeys({KeyFile("ssh_keygen_p256.pub")}),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

// A SuperLink that takes known keys over TLS, and nodes of threads.
class KnownKeysTest : public ::testing::TestWithParam<Transport> {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(link_, SuperLink::Start({.http_address = "127.0.0.1:0",
                                                  .tls = Tls(authority_),
                                                  .enable_supernode_auth = true}));
  }
  void TearDown() override {
    stop_.request_stop();
    for (std::thread& node : nodes_) node.join();
  }

  SuperNodeOptions Options(const std::string& private_key) {
    const int port = GetParam() == Transport::kHttp ? link_->http_port() : link_->fleet_port();
    return {.superlink = absl::StrCat("localhost:", port),
            .transport = GetParam(),
            .tls = {.root_certificates = authority_.certificate()},
            .private_key = private_key,
            .on_event = [this](const std::string& event) {
              const MutexLock lock(mutex_);
              events_.push_back(event);
              changed_.NotifyAll();
            }};
  }
  void StartNode(const std::string& private_key) {
    nodes_.emplace_back([this, options = Options(private_key)] {
      EXPECT_THAT(RunSuperNode(app_, options, stop_.get_token()), IsOk());
    });
  }
  bool AwaitEvent(const std::string& part) {
    const MutexLock lock(mutex_);
    const absl::Time deadline = absl::Now() + absl::Seconds(30);
    while (absl::Now() < deadline) {
      for (const std::string& event : events_) {
        if (absl::StrContains(event, part)) return true;
      }
      changed_.WaitFor(mutex_, deadline - absl::Now());
    }
    return false;
  }

  const TestAuthority authority_;
  const ClientApp app_;
  std::unique_ptr<SuperLink> link_;
  std::stop_source stop_;
  std::vector<std::thread> nodes_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<std::string> events_ ABSL_GUARDED_BY(mutex_);
};

TEST_P(KnownKeysTest, NodeWithAKnownKeyJoinsAndIsTurnedAwayWhenItIsTakenBack) {
  ASSERT_THAT(link_->AllowKeys({KeyFile("ssh_keygen_p384.pub")}), IsOk());
  StartNode(KeyFile("ssh_keygen_p384"));
  ASSERT_TRUE(AwaitEvent("registered as node"));
  ASSERT_EQ(link_->Nodes().size(), 1);
  EXPECT_TRUE(link_->Nodes()[0].online);
  ASSERT_THAT(link_->AllowKeys({}), IsOk());
  EXPECT_TRUE(link_->Nodes().empty());
  EXPECT_TRUE(AwaitEvent("no longer knows this node"));
  // The key is allowed again: its node comes back by itself.
  ASSERT_THAT(link_->AllowKeys({KeyFile("ssh_keygen_p384.pem.expected")}), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto grid, link_->CreateRun({}));
  ASSERT_OK_AND_ASSIGN(const auto online, grid->WaitForNodes(1, absl::Now() + absl::Seconds(30)));
  EXPECT_EQ(online.size(), 1);
}

TEST_P(KnownKeysTest, NodeWithAFreshKeyIsRefusedAtOnce) {
  EXPECT_THAT(RunSuperNode(app_, Options(""), stop_.get_token()),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_P(KnownKeysTest, NodeThatWasRegisteredKeepsItsPlaceWhenItLeaves) {
  ASSERT_OK_AND_ASSIGN(const uint64_t id, link_->RegisterNode(KeyFile("ssh_keygen_p256.pub")));
  ASSERT_OK_AND_ASSIGN(const auto grid, link_->CreateRun({}));
  for (int i = 0; i < 2; ++i) {
    std::stop_source stop;
    std::thread node([&] {
      EXPECT_THAT(RunSuperNode(app_, Options(KeyFile("ssh_keygen_p256")), stop.get_token()),
                  IsOk());
    });
    const auto online = grid->WaitForNodes(1, absl::Now() + absl::Seconds(30));
    EXPECT_TRUE(AwaitEvent("registered as node"));
    stop.request_stop();
    node.join();
    ASSERT_THAT(online, testing::IsOkAndHolds(::testing::ElementsAre(id)));
    EXPECT_FALSE(link_->Nodes().at(0).online);
    const MutexLock lock(mutex_);
    events_.clear();
  }
  ASSERT_THAT(link_->UnregisterNode(id), IsOk());
  EXPECT_TRUE(link_->Nodes().empty());
}

INSTANTIATE_TEST_SUITE_P(Transports, KnownKeysTest,
                         ::testing::Values(Transport::kGrpcRere, Transport::kHttp),
                         [](const auto& param) {
                           return param.param == Transport::kHttp ? "Http" : "Grpc";
                         });

}  // namespace
}  // namespace fedumm
