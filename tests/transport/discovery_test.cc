// What a node finds out about the server at an address, and what it says of it.
#include "transport/discovery.h"

#include <gmock/gmock.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "fedumm/super_link.h"
#include "tests/testing/status_matchers.h"
#include "tests/transport/raw_server.h"
#include "tests/transport/test_certificates.h"

namespace fedumm::transport {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::IsOk;
using testing::PemPair;
using testing::RawPeer;
using testing::RawServer;
using testing::StatusIs;
using testing::TestAuthority;

constexpr absl::Duration kLong = absl::Seconds(20);

class DiscoveryTest : public ::testing::Test {
 protected:
  DiscoveryTest() : key_(*NodeKey::Generate()) {}

  std::unique_ptr<Discovery> New(const std::string& server,
                                 std::optional<ClientTls> tls = std::nullopt,
                                 Transport transport = Transport::kAuto) {
    auto discovery = Discovery::Create({.server = server,
                                        .transport = transport,
                                        .tls = std::move(tls),
                                        .on_event =
                                            [this](const std::string& event) {
                                              const MutexLock lock(mutex_);
                                              events_.push_back(event);
                                            },
                                        .environment = [](const char*) { return std::nullopt; }},
                                       key_);
    EXPECT_THAT(discovery, IsOk());
    return *std::move(discovery);
  }
  absl::Status LookAt(const std::string& server, std::optional<ClientTls> tls = std::nullopt,
                      Transport transport = Transport::kAuto) {
    return New(server, std::move(tls), transport)->LookOnce({});
  }
  ServerTls Tls(const TestAuthority::Request& request = TestAuthority::Request()) const {
    const PemPair pair = authority_.Issue(request);
    return {pair.certificate, pair.private_key, ""};
  }
  ClientTls Trust() const { return {.root_certificates = authority_.certificate()}; }
  std::vector<std::string> events() {
    const MutexLock lock(mutex_);
    return events_;
  }
  // A call that every server of ours answers.
  absl::Status Register(FleetClient& client) const {
    flwr::proto::RegisterNodeFleetRequest request;
    request.set_public_key(key_.public_key_pem());
    return client.RegisterNode(request, {.timeout = kLong}).status();
  }

  TestAuthority authority_;
  const NodeKey key_;

 private:
  Mutex mutex_;
  std::vector<std::string> events_ ABSL_GUARDED_BY(mutex_);
};

void SpeakHttp(RawPeer& peer, int) {
  while (!peer.ReceiveRequest().empty()) peer.Answer(200, "");
}

std::string AddressOf(int port) { return absl::StrCat("127.0.0.1:", port); }

TEST_F(DiscoveryTest, HttpServerIsCalledOverHttp) {
  RawServer server(SpeakHttp);
  const auto discovery = New(server.address());
  EXPECT_THAT(discovery->LookOnce({}), IsOk());
  EXPECT_THAT(events(),
              ElementsAre(absl::StrCat(server.address(), " speaks HTTP (Flower from 1.40)")));
  EXPECT_THAT(Register(*discovery), IsOk());
}

TEST_F(DiscoveryTest, HttpServerWithTlsIsCalledOverHttp) {
  for (const char* alpn : {"", "http/1.1"}) {
    RawServer server({.tls = Tls(), .alpn = alpn}, SpeakHttp);
    const auto discovery = New(server.address(), Trust());
    EXPECT_THAT(discovery->LookOnce({}), IsOk());
    EXPECT_THAT(Register(*discovery), IsOk());
  }
}

TEST_F(DiscoveryTest, GrpcServerIsCalledOverGrpc) {
  ASSERT_OK_AND_ASSIGN(const auto link, SuperLink::Start({.insecure = true}));
  const auto discovery = New(AddressOf(link->fleet_port()));
  EXPECT_THAT(discovery->LookOnce({}), IsOk());
  EXPECT_THAT(events(), ElementsAre(HasSubstr("speaks gRPC (Flower up to 1.39)")));
  EXPECT_THAT(Register(*discovery), IsOk());
}

TEST_F(DiscoveryTest, GrpcServerWithTlsIsCalledOverGrpc) {
  ASSERT_OK_AND_ASSIGN(const auto link, SuperLink::Start({.tls = Tls()}));
  const auto discovery = New(AddressOf(link->fleet_port()), Trust());
  EXPECT_THAT(discovery->LookOnce({}), IsOk());
  EXPECT_THAT(Register(*discovery), IsOk());
}

TEST_F(DiscoveryTest, TransportThatWasNamedIsNotAnnounced) {
  RawServer server(SpeakHttp);
  EXPECT_THAT(LookAt(server.address(), std::nullopt, Transport::kHttp), IsOk());
  EXPECT_THAT(events(), IsEmpty());
}

TEST_F(DiscoveryTest, OtherTransportThanTheOneNamedIsRefused) {
  RawServer http(SpeakHttp);
  for (const Transport transport : {Transport::kGrpcRere, Transport::kGrpcAdapter}) {
    EXPECT_THAT(LookAt(http.address(), std::nullopt, transport),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         AllOf(HasSubstr("speaks HTTP"), HasSubstr("another transport"))));
  }
  ASSERT_OK_AND_ASSIGN(const auto grpc, SuperLink::Start({.insecure = true}));
  EXPECT_THAT(LookAt(AddressOf(grpc->fleet_port()), std::nullopt, Transport::kHttp),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("speaks gRPC")));
}

TEST_F(DiscoveryTest, AServerThatIsNotThereIsTriedLater) {
  std::string address;
  { address = RawServer(SpeakHttp).address(); }
  const auto discovery = New(address);
  EXPECT_THAT(discovery->LookOnce({}), IsOk());
  EXPECT_THAT(Register(*discovery), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("refused")));
  EXPECT_THAT(New("nowhere.invalid:80")->LookOnce({}), IsOk());
}

TEST_F(DiscoveryTest, ServerThatComesBackAsAnotherIsFoundAgain) {
  ASSERT_OK_AND_ASSIGN(auto link, SuperLink::Start({.insecure = true}));
  const std::string address = AddressOf(link->fleet_port());
  const auto discovery = New(address);
  EXPECT_THAT(Register(*discovery), IsOk());
  link.reset();
  EXPECT_THAT(Register(*discovery), StatusIs(absl::StatusCode::kUnavailable));
  ASSERT_OK_AND_ASSIGN(
      link, SuperLink::Start({.fleet_api_address = "", .http_address = address, .insecure = true}));
  EXPECT_THAT(Register(*discovery), IsOk());
  EXPECT_THAT(events(), ElementsAre(HasSubstr("speaks gRPC"), HasSubstr("speaks HTTP")));
}

TEST_F(DiscoveryTest, AdapterIsTriedWhereGrpcLacksTheCalls) {
  ASSERT_OK_AND_ASSIGN(const auto link, SuperLink::Start({.fleet_api_address = "",
                                                          .grpc_adapter_address = "127.0.0.1:0",
                                                          .insecure = true}));
  const auto discovery = New(AddressOf(link->grpc_adapter_port()));
  EXPECT_THAT(Register(*discovery), IsOk());
  EXPECT_THAT(events(), ElementsAre(HasSubstr("speaks gRPC"), HasSubstr("grpc-adapter")));
}

// --- What can never work ends at once, with one line ---

TEST_F(DiscoveryTest, CertificatesThatDoNotPassAreExplained) {
  const TestAuthority other;
  const auto refused = [&](const ServerTls& tls, const ClientTls& trust, const char* why) {
    RawServer http({.tls = tls}, SpeakHttp);
    EXPECT_THAT(LookAt(http.address(), trust),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         AllOf(HasSubstr(http.address()), HasSubstr(why))));
    ASSERT_OK_AND_ASSIGN(const auto grpc, SuperLink::Start({.tls = tls}));
    EXPECT_THAT(LookAt(AddressOf(grpc->fleet_port()), trust),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(why)));
  };
  refused(Tls(), {.root_certificates = other.certificate()}, "none of the trusted root");
  refused(Tls(), {}, "none of the trusted root");
  refused(Tls({.names = "DNS:elsewhere.example"}), Trust(), "for another host: elsewhere.example");
  refused(Tls({.valid_for_s = -60}), Trust(), "it expired on");
}

TEST_F(DiscoveryTest, LackOfAClientCertificateIsExplained) {
  ServerTls tls = Tls();
  tls.client_ca = authority_.certificate();
  RawServer http({.tls = tls}, SpeakHttp);
  EXPECT_THAT(LookAt(http.address(), Trust()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("client certificate")));
  ASSERT_OK_AND_ASSIGN(const auto grpc, SuperLink::Start({.tls = tls}));
  EXPECT_THAT(LookAt(AddressOf(grpc->fleet_port()), Trust()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("client certificate")));
  const PemPair pair = authority_.Issue();
  const ClientTls own = {authority_.certificate(), pair.certificate, pair.private_key};
  EXPECT_THAT(LookAt(http.address(), own), IsOk());
  EXPECT_THAT(LookAt(AddressOf(grpc->fleet_port()), own), IsOk());
}

TEST_F(DiscoveryTest, PlaintextServerIsExplainedToANodeThatWantsTls) {
  RawServer http([](RawPeer& peer, int connection) {
    if (connection % 2 == 0) {  // hangs up on a handshake
      peer.Receive();
    } else {
      SpeakHttp(peer, connection);
    }
  });
  EXPECT_THAT(LookAt(http.address(), Trust()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("plaintext")));
  RawServer loud([](RawPeer& peer, int) {
    peer.Receive();
    peer.Answer(400, "");
  });
  EXPECT_THAT(LookAt(loud.address(), Trust()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("plaintext")));
  ASSERT_OK_AND_ASSIGN(const auto grpc, SuperLink::Start({.insecure = true}));
  EXPECT_THAT(LookAt(AddressOf(grpc->fleet_port()), Trust()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("plaintext")));
}

TEST_F(DiscoveryTest, TlsServerIsExplainedToANodeThatIsInsecure) {
  for (const Transport transport : {Transport::kAuto, Transport::kHttp, Transport::kGrpcRere}) {
    RawServer http({.tls = Tls()}, SpeakHttp);
    EXPECT_THAT(LookAt(http.address(), std::nullopt, transport),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("speaks TLS")));
    ASSERT_OK_AND_ASSIGN(const auto grpc, SuperLink::Start({.tls = Tls()}));
    EXPECT_THAT(LookAt(AddressOf(grpc->fleet_port()), std::nullopt, transport),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("speaks TLS")));
  }
}

TEST_F(DiscoveryTest, OtherProtocolsAreNamed) {
  RawServer server([](RawPeer& peer, int) {
    peer.Send("SSH-2.0-OpenSSH_9.2p1\r\n");
    peer.AwaitEnd();
  });
  EXPECT_THAT(LookAt(server.address()),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("neither HTTP nor gRPC"), HasSubstr("SSH-2.0"))));
  EXPECT_THAT(LookAt(server.address(), Trust()), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(DiscoveryTest, ServerThatHangsUpMayBeStarting) {
  RawServer server([](RawPeer& peer, int) { peer.Receive(); });
  const auto discovery = New(server.address());
  EXPECT_THAT(discovery->LookOnce({}), IsOk());
  EXPECT_THAT(Register(*discovery), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(DiscoveryTest, StopEndsALook) {
  std::stop_source stop;
  RawServer server([&](RawPeer& peer, int) {
    peer.Receive();
    stop.request_stop();
    peer.AwaitEnd();
  });
  const absl::Time before = absl::Now();
  EXPECT_THAT(New(server.address())->LookOnce(stop.get_token()), IsOk());
  EXPECT_LT(absl::Now() - before, absl::Seconds(3));
}

TEST_F(DiscoveryTest, UnusableOptionsAreRefusedBeforeAnything) {
  EXPECT_THAT(Discovery::Create({.server = "nowhere"}, key_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("nowhere")));
  EXPECT_THAT(
      Discovery::Create({.server = "a:1", .tls = ClientTls{.root_certificates = "x"}}, key_),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("root certificates")));
}

}  // namespace
}  // namespace fedumm::transport
