// Proxies: the rule that reads the environment, and nodes that join through one.
#include "transport/proxy.h"

#include <gmock/gmock.h>

#include <map>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fedumm/super_link.h"
#include "tests/testing/status_matchers.h"
#include "tests/transport/fake_proxy.h"
#include "tests/transport/test_certificates.h"
#include "transport/discovery.h"

namespace fedumm::transport {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using testing::FakeProxy;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::IsOk;
using ::testing::Not;
using testing::PemPair;
using ::testing::StartsWith;
using testing::StatusIs;
using testing::TestAuthority;

using Variables = std::map<std::string, std::string>;

Environment Of(Variables variables) {
  return [variables = std::move(variables)](const char* name) -> std::optional<std::string> {
    const auto it = variables.find(name);
    return it == variables.end() ? std::nullopt : std::optional(it->second);
  };
}

// "host:port" of the proxy, "" if there is none.
std::string AddressOf(const absl::StatusOr<Route>& route) {
  if (!route.ok()) return std::string(route.status().message());
  return route->proxy.has_value() ? route->proxy->address.ToString() : "";
}
std::string OverHttp(const Variables& variables, const std::string& server = "link.example.com:80",
                     bool tls = false) {
  return AddressOf(HttpRoute(*HostPort::Parse(server), tls, Of(variables)));
}
std::string OverGrpc(const Variables& variables,
                     const std::string& server = "link.example.com:80") {
  return AddressOf(GrpcRoute(*HostPort::Parse(server), Of(variables)));
}

TEST(ProxyRuleTest, HttpTakesTheVariableOfItsSchemeThenAllProxy) {
  EXPECT_EQ(OverHttp({}), "");
  EXPECT_EQ(OverHttp({{"http_proxy", "http://a:1"}, {"https_proxy", "http://b:2"}}), "a:1");
  EXPECT_EQ(OverHttp({{"https_proxy", "http://b:2"}}), "");
  EXPECT_EQ(OverHttp({{"http_proxy", "http://a:1"}, {"https_proxy", "http://b:2"}},
                     "link.example.com:443", /*tls=*/true),
            "b:2");
  EXPECT_EQ(OverHttp({{"http_proxy", "http://a:1"}}, "link.example.com:443", /*tls=*/true), "");
  EXPECT_EQ(OverHttp({{"all_proxy", "http://c:3"}}), "c:3");
  EXPECT_EQ(OverHttp({{"ALL_PROXY", "http://c:3"}}, "link.example.com:443", /*tls=*/true), "c:3");
  EXPECT_EQ(OverHttp({{"grpc_proxy", "http://d:4"}}), "");
}

TEST(ProxyRuleTest, HttpTakesBothCasesAndLowerCaseFirst) {
  EXPECT_EQ(OverHttp({{"HTTP_PROXY", "http://a:1"}}), "a:1");
  EXPECT_EQ(OverHttp({{"HTTP_PROXY", "http://a:1"}, {"http_proxy", "http://b:2"}}), "b:2");
  EXPECT_EQ(OverHttp({{"HTTP_PROXY", "http://a:1"}, {"http_proxy", ""}}), "");
  EXPECT_EQ(OverHttp({{"HTTP_PROXY", "http://a:1"}, {"NO_PROXY", "example.com"}}), "");
}

TEST(ProxyRuleTest, GrpcTakesItsOwnVariableThenHttpsThenHttpInLowerCase) {
  Variables variables = {{"HTTP_PROXY", "http://a:1"}, {"HTTPS_PROXY", "http://a:1"}};
  EXPECT_EQ(OverGrpc(variables), "");
  variables["http_proxy"] = "http://b:2";
  EXPECT_EQ(OverGrpc(variables), "b:2");
  variables["https_proxy"] = "http://c:3";
  EXPECT_EQ(OverGrpc(variables), "c:3");
  variables["grpc_proxy"] = "http://d:4";
  EXPECT_EQ(OverGrpc(variables), "d:4");
  variables["no_proxy"] = "example.com";
  EXPECT_EQ(OverGrpc(variables), "");
  variables["no_grpc_proxy"] = "elsewhere.org";
  EXPECT_EQ(OverGrpc(variables), "d:4");
  variables["grpc_proxy"] = "";
  EXPECT_EQ(OverGrpc(variables), "");
}

TEST(ProxyRuleTest, NoProxyListsDomainsAddressesAndRanges) {
  const auto is_direct = [](const char* no_proxy, const char* server) {
    const Variables variables = {{"http_proxy", "http://p:1"}, {"no_proxy", no_proxy}};
    EXPECT_EQ(OverHttp(variables, server), OverGrpc(variables, server));
    return OverHttp(variables, server).empty();
  };
  EXPECT_TRUE(is_direct("*", "link.example.com:80"));
  EXPECT_TRUE(is_direct("a.org, example.com", "link.example.com:80"));
  EXPECT_TRUE(is_direct("Example.COM", "link.example.com:80"));
  EXPECT_TRUE(is_direct("example.com", "example.com:80"));
  EXPECT_FALSE(is_direct("example.com", "badexample.com:80"));
  EXPECT_TRUE(is_direct(".example.com", "link.example.com:80"));
  EXPECT_FALSE(is_direct(".example.com", "example.com:80"));
  EXPECT_TRUE(is_direct("example.com:80", "link.example.com:80"));
  EXPECT_FALSE(is_direct("example.com:81", "link.example.com:80"));
  EXPECT_TRUE(is_direct("127.0.0.1", "127.0.0.1:80"));
  EXPECT_TRUE(is_direct("127.0.0.1:80", "127.0.0.1:80"));
  EXPECT_FALSE(is_direct("0.0.1", "127.0.0.1:80"));
  EXPECT_TRUE(is_direct("10.0.0.0/8", "10.200.3.4:80"));
  EXPECT_FALSE(is_direct("10.0.0.0/8", "11.0.0.1:80"));
  EXPECT_TRUE(is_direct("192.168.4.0/22", "192.168.7.255:80"));
  EXPECT_FALSE(is_direct("192.168.4.0/22", "192.168.8.0:80"));
  EXPECT_TRUE(is_direct("::1", "[::1]:80"));
  EXPECT_TRUE(is_direct("[::1]", "[::1]:80"));
  EXPECT_TRUE(is_direct("0:0:0:0:0:0:0:1", "[::1]:80"));
  EXPECT_TRUE(is_direct("fd00::/8", "[fd12::1]:80"));
  EXPECT_FALSE(is_direct("fd00::/8", "[fe80::1]:80"));
  EXPECT_TRUE(is_direct("localhost", "localhost:80"));
  EXPECT_FALSE(is_direct("localhost", "127.0.0.1:80"));
  EXPECT_FALSE(is_direct("", "localhost:80"));
  EXPECT_FALSE(is_direct(",10.0.0.0/x,/8,a:b:c,", "10.0.0.1:80"));
}

TEST(ProxyRuleTest, UrlsOfProxiesHaveDefaultsAndUsers) {
  EXPECT_EQ(OverHttp({{"http_proxy", "proxy.example.com:3128"}}), "proxy.example.com:3128");
  EXPECT_EQ(OverHttp({{"http_proxy", "http://proxy.example.com/"}}), "proxy.example.com:80");
  EXPECT_EQ(OverHttp({{"http_proxy", "HTTP://[::1]:3128/x"}}), "[::1]:3128");
  EXPECT_EQ(OverHttp({{"http_proxy", "http://[::1]"}}), "[::1]:80");
  ASSERT_OK_AND_ASSIGN(const Proxy proxy, Proxy::Parse("http://us%40er:s%3Ae@cret@host:1"));
  EXPECT_EQ(proxy.authorization, "Basic dXNAZXI6czplQGNyZXQ=");  // us@er:s:e@cret
  EXPECT_EQ(proxy.ToString(), "the proxy http://host:1");
}

TEST(ProxyRuleTest, AVariableThatCannotBeUsedIsNamedAndNotQuoted) {
  for (const char* value : {"socks5://user:secret@host:1", "https://user:secret@host:1",
                            "http://user:secret@", "http://user:secret@host:99999",
                            "http://user:%zzsecret@host:1", "http://user:secret@a b:1"}) {
    EXPECT_THAT(GrpcRoute({"example.com", 80}, Of({{"https_proxy", value}})),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         AllOf(HasSubstr("https_proxy"), HasSubstr("proxy is http://"),
                               Not(HasSubstr("secret")))))
        << value;
  }
}

// A name that no resolver knows: only the proxy reaches it.
constexpr char kHidden[] = "superlink.invalid:9092";

class ThroughProxyTest : public ::testing::Test {
 protected:
  ThroughProxyTest() : key_(*NodeKey::Generate()) {}

  void StartLink(bool tls = false) {
    SuperLinkOptions options{.insecure = !tls};
    options.http_address = "localhost:0";
    if (tls) {
      const PemPair pair = authority_.Issue({.names = "DNS:superlink.invalid"});
      options.tls = ServerTls{pair.certificate, pair.private_key, ""};
    }
    ASSERT_OK_AND_ASSIGN(link_, SuperLink::Start(options));
  }
  std::string grpc() const { return absl::StrCat("127.0.0.1:", link_->fleet_port()); }
  std::string http() const { return absl::StrCat("127.0.0.1:", link_->http_port()); }

  // Looks and registers, as a node does that begins.
  absl::Status Join(const std::string& server, const Variables& variables,
                    Transport transport = Transport::kAuto, bool tls = false) {
    FEDUMM_ASSIGN_OR_RETURN(
        const auto discovery,
        Discovery::Create(
            {.server = server,
             .transport = transport,
             .tls = tls ? std::optional(ClientTls{.root_certificates = authority_.certificate()})
                        : std::nullopt,
             .on_event = [this](const std::string& event) { event_ = event; },
             .environment = Of(variables)},
            key_));
    FEDUMM_RETURN_IF_ERROR(discovery->LookOnce({}));
    flwr::proto::RegisterNodeFleetRequest request;
    request.set_public_key(key_.public_key_pem());
    return discovery->RegisterNode(request, {.timeout = absl::Seconds(20)}).status();
  }

  TestAuthority authority_;
  const NodeKey key_;
  std::string event_;
  std::unique_ptr<SuperLink> link_;
};

TEST_F(ThroughProxyTest, AServerThatOnlyTheProxyReachesIsJoinedOverBothTransports) {
  StartLink();
  for (const auto& [address, transports] :
       {std::pair(grpc(), std::vector{Transport::kAuto, Transport::kGrpcRere}),
        std::pair(http(), std::vector{Transport::kAuto, Transport::kHttp})}) {
    for (const Transport transport : transports) {
      FakeProxy proxy({.hosts = {{kHidden, address}}});
      EXPECT_THAT(Join(kHidden, {{"http_proxy", proxy.url()}}, transport), IsOk());
      EXPECT_THAT(proxy.requests(), Not(IsEmpty()));
    }
  }
  EXPECT_THAT(event_, AllOf(HasSubstr("superlink.invalid:9092 through the proxy http://127.0.0.1:"),
                            HasSubstr("speaks HTTP")));
}

TEST_F(ThroughProxyTest, AServerWithTlsIsJoinedThroughTunnelsAndProvesItsOwnName) {
  StartLink(/*tls=*/true);
  for (const std::string& address : {grpc(), http()}) {
    FakeProxy proxy({.hosts = {{kHidden, address}}});
    EXPECT_THAT(Join(kHidden, {{"https_proxy", proxy.url()}}, Transport::kAuto, /*tls=*/true),
                IsOk());
    EXPECT_THAT(proxy.requests(), Each(StartsWith("CONNECT superlink.invalid:9092 HTTP/1.1\r\n")));
  }
}

TEST_F(ThroughProxyTest, PlaintextHttpIsForwardedInAbsoluteForm) {
  StartLink();
  FakeProxy proxy({.hosts = {{kHidden, http()}}});
  EXPECT_THAT(Join(kHidden, {{"HTTP_PROXY", proxy.url()}}), IsOk());
  EXPECT_THAT(proxy.requests(),
              Contains(AllOf(StartsWith("POST http://superlink.invalid:9092/v1/fleet/register-node "
                                        "HTTP/1.1\r\n"),
                             HasSubstr("\r\nHost: superlink.invalid:9092\r\n"))));
}

TEST_F(ThroughProxyTest, UserAndPasswordAreShownToTheProxyByBothTransports) {
  StartLink();
  for (const std::string& address : {grpc(), http()}) {
    FakeProxy proxy({.authorization = "Basic dXNlcjpzZWNyZXQ=", .hosts = {{kHidden, address}}});
    const std::string with_user = absl::StrCat("http://user:secret@", proxy.address());
    EXPECT_THAT(Join(kHidden, {{"http_proxy", with_user}}), IsOk());
    EXPECT_THAT(Join(kHidden, {{"http_proxy", proxy.url()}}),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         AllOf(HasSubstr(absl::StrCat("the proxy ", proxy.url())),
                               HasSubstr("requires a user and a password"))));
    const std::string wrong = absl::StrCat("http://user:wrong@", proxy.address());
    EXPECT_THAT(Join(kHidden, {{"http_proxy", wrong}}),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         AllOf(HasSubstr("refuses the password"), Not(HasSubstr("wrong")))));
  }
}

TEST_F(ThroughProxyTest, AProxyThatIsAwayIsNamedByBothTransports) {
  StartLink();
  std::string dead;
  { dead = FakeProxy().address(); }
  for (const std::string& address : {grpc(), http()}) {
    EXPECT_THAT(Join(address, {{"http_proxy", absl::StrCat("http://user:secret@", dead)}}),
                StatusIs(absl::StatusCode::kUnavailable,
                         AllOf(HasSubstr(absl::StrCat("the proxy http://", dead)),
                               HasSubstr("Connection refused"), Not(HasSubstr("secret")))));
  }
}

TEST_F(ThroughProxyTest, AServerInNoProxyIsJoinedWithoutTheProxy) {
  StartLink();
  FakeProxy proxy;
  for (const std::string& address : {grpc(), http()}) {
    EXPECT_THAT(Join(address, {{"http_proxy", proxy.url()}, {"no_proxy", "127.0.0.0/8"}}), IsOk());
  }
  EXPECT_THAT(proxy.requests(), IsEmpty());
}

TEST_F(ThroughProxyTest, AServerThatTheProxyCannotReachIsForLater) {
  std::string closed;
  { closed = FakeProxy().address(); }
  FakeProxy proxy({.hosts = {{kHidden, closed}}});
  for (const Transport transport : {Transport::kAuto, Transport::kHttp, Transport::kGrpcRere}) {
    EXPECT_THAT(Join(kHidden, {{"http_proxy", proxy.url()}}, transport),
                StatusIs(absl::StatusCode::kUnavailable,
                         AllOf(HasSubstr("the proxy"), HasSubstr("cannot reach"))));
  }
}

TEST_F(ThroughProxyTest, AProxyThatRefusesTheServerEndsTheNodeAndIsNamed) {
  FakeProxy proxy({.connect_refusal = 403, .forward_refusal = 403});
  for (const Transport transport : {Transport::kAuto, Transport::kHttp, Transport::kGrpcRere}) {
    EXPECT_THAT(
        Join(kHidden, {{"http_proxy", proxy.url()}}, transport),
        StatusIs(absl::StatusCode::kFailedPrecondition,
                 AllOf(HasSubstr("the proxy"), HasSubstr("does not allow"), HasSubstr(kHidden))));
  }
}

TEST_F(ThroughProxyTest, AProxyThatForwardsButDoesNotTunnelIsEnoughForPlaintextHttp) {
  StartLink();
  FakeProxy proxy({.hosts = {{kHidden, http()}}, .connect_refusal = 405});
  EXPECT_THAT(Join(kHidden, {{"http_proxy", proxy.url()}}), IsOk());
}

TEST_F(ThroughProxyTest, WhereTheTransportsHaveDifferentProxiesEachIsTried) {
  StartLink();
  FakeProxy tunnels({.hosts = {{kHidden, grpc()}}});
  EXPECT_THAT(Join(kHidden, {{"grpc_proxy", tunnels.url()}}), IsOk());
  EXPECT_THAT(event_, HasSubstr("speaks gRPC"));
  FakeProxy forwards({.hosts = {{kHidden, http()}}});
  EXPECT_THAT(Join(kHidden, {{"HTTP_PROXY", forwards.url()}}), IsOk());
  EXPECT_THAT(event_, HasSubstr("speaks HTTP"));
}

TEST_F(ThroughProxyTest, WhatIsNoProxyIsSaid) {
  testing::RawServer server([](testing::RawPeer& peer, int) {
    peer.Receive();
    peer.Send("220 mail.example.com ESMTP\r\n");
    peer.AwaitEnd();
  });
  const std::string url = absl::StrCat("http://", server.address());
  for (const Transport transport : {Transport::kHttp, Transport::kGrpcRere}) {
    EXPECT_THAT(Join(kHidden, {{"http_proxy", url}}, transport),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("is no HTTP proxy")));
  }
}

}  // namespace
}  // namespace fedumm::transport
