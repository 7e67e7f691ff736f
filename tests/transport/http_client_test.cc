// HttpClient and the connections under it, against a server that does what each test says.
#include "transport/http_client.h"

#include <gmock/gmock.h>

#include <future>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/testing/status_matchers.h"
#include "tests/transport/raw_server.h"
#include "tests/transport/test_certificates.h"

namespace fedumm::transport {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::PemPair;
using testing::RawPeer;
using testing::RawServer;
using testing::StatusIs;
using testing::TestAuthority;

constexpr absl::Duration kLong = absl::Seconds(20);  // longer than anything here takes

Route At(const std::string& address) {
  return {.server = *HostPort::Parse(address), .proxy = std::nullopt};
}

absl::StatusOr<HttpAnswer> Post(HttpClient& client, std::string_view body = "ping",
                                Until until = Until::After(kLong)) {
  return client.Post("/v1/fleet/get-run", "Content-Type: application/protobuf\r\n", body, until);
}

// Answers every request of a connection.
void Echo(RawPeer& peer, int) {
  for (std::string request = peer.ReceiveRequest(); !request.empty();
       request = peer.ReceiveRequest()) {
    peer.Answer(200, request.substr(request.find("\r\n\r\n") + 4));
  }
}

TEST(HttpClientTest, RequestIsOneSegmentWithAllThatAServerNeeds) {
  std::promise<std::string> received;
  RawServer server([&](RawPeer& peer, int) {
    received.set_value(peer.Receive());
    peer.Answer(412, R"({"code": 23})", "Content-Type: application/json\r\n");
    peer.AwaitEnd();
  });
  HttpClient client(At(server.address()), nullptr, {});
  ASSERT_OK_AND_ASSIGN(const HttpAnswer answer, Post(client));
  EXPECT_EQ(answer.status, 412);
  EXPECT_EQ(answer.Header("content-type"), "application/json");
  EXPECT_EQ(answer.body, R"({"code": 23})");
  EXPECT_EQ(
      received.get_future().get(),
      absl::StrCat("POST /v1/fleet/get-run HTTP/1.1\r\nHost: ", server.address(),
                   "\r\nContent-Type: application/protobuf\r\nContent-Length: 4\r\n\r\nping"));
}

TEST(HttpClientTest, CallsShareAConnection) {
  RawServer server(Echo);
  HttpClient client(At(server.address()), nullptr, {});
  for (int i = 0; i < 5; ++i) {
    ASSERT_OK_AND_ASSIGN(const HttpAnswer answer, Post(client, absl::StrCat("body ", i)));
    EXPECT_EQ(answer.body, absl::StrCat("body ", i));
  }
  EXPECT_EQ(server.num_connections(), 1);
}

TEST(HttpClientTest, ThreadsDoNotWaitForEachOther) {
  std::promise<void> both;
  std::shared_future<void> met = both.get_future().share();
  std::atomic<int> here = 0;
  RawServer server({.parallel = true}, [&](RawPeer& peer, int) {
    peer.ReceiveRequest();
    if (++here == 2) both.set_value();
    met.wait_for(std::chrono::seconds(20));
    peer.Answer(200, "");
    peer.AwaitEnd();
  });
  HttpClient client(At(server.address()), nullptr, {});
  std::thread other([&] { EXPECT_THAT(Post(client), IsOk()); });
  EXPECT_THAT(Post(client), IsOk());
  other.join();
  EXPECT_EQ(here, 2);
}

TEST(HttpClientTest, LargeBodiesPassBothWays) {
  RawServer server(Echo);
  HttpClient client(At(server.address()), nullptr, {});
  std::string large(6 << 20, 'x');
  large += "end";
  ASSERT_OK_AND_ASSIGN(const HttpAnswer answer, Post(client, large));
  EXPECT_EQ(answer.body, large);
}

TEST(HttpClientTest, ConnectionThatTheServerClosedIsReplaced) {
  RawServer server([](RawPeer& peer, int) {
    if (!peer.ReceiveRequest().empty()) peer.Answer(200, "");
  });
  HttpClient client(At(server.address()), nullptr, {});
  for (int i = 0; i < 3; ++i) EXPECT_THAT(Post(client), IsOk());
  EXPECT_EQ(server.num_connections(), 3);
}

TEST(HttpClientTest, RequestThatMeetsAClosingConnectionIsSentOnceMore) {
  RawServer server([](RawPeer& peer, int connection) {
    peer.ReceiveRequest();
    peer.Answer(200, "first");
    if (connection == 0) {
      peer.ReceiveRequest();
      peer.Reset();  // as a server does whose idle timer ran out just now
    } else {
      Echo(peer, connection);
    }
  });
  HttpClient client(At(server.address()), nullptr, {});
  EXPECT_THAT(Post(client), IsOk());
  ASSERT_OK_AND_ASSIGN(const HttpAnswer answer, Post(client));
  EXPECT_EQ(answer.body, "first");
  EXPECT_EQ(server.num_connections(), 2);
}

TEST(HttpClientTest, FreshConnectionThatBreaksIsNotTriedAgain) {
  RawServer server([](RawPeer& peer, int) {
    peer.ReceiveRequest();
    peer.Reset();
  });
  HttpClient client(At(server.address()), nullptr, {});
  EXPECT_THAT(Post(client), StatusIs(absl::StatusCode::kUnavailable, HasSubstr(server.address())));
  EXPECT_EQ(server.num_connections(), 1);
}

TEST(HttpClientTest, AnswerThatBeganIsNotAskedForAgain) {
  RawServer server([](RawPeer& peer, int) {
    peer.ReceiveRequest();
    peer.Answer(200, "whole");
    peer.ReceiveRequest();
    peer.Send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
  });
  HttpClient client(At(server.address()), nullptr, {});
  EXPECT_THAT(Post(client), IsOk());
  EXPECT_THAT(Post(client),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("within an answer")));
  EXPECT_EQ(server.num_connections(), 1);
}

TEST(HttpClientTest, AServerThatIsNotThereIsUnavailable) {
  std::string address;
  { address = RawServer(Echo).address(); }
  HttpClient client(At(address), nullptr, {});
  EXPECT_THAT(Post(client), StatusIs(absl::StatusCode::kUnavailable,
                                     AllOf(HasSubstr(address), HasSubstr("refused"))));
}

TEST(HttpClientTest, NameThatDoesNotResolveIsUnavailable) {
  HttpClient client(At("nowhere.invalid:80"), nullptr, {});
  EXPECT_THAT(Post(client), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("nowhere.invalid")));
}

TEST(HttpClientTest, NamesAreResolved) {
  RawServer server(Echo);
  HttpClient client(At(absl::StrCat("localhost:", server.port())), nullptr, {});
  EXPECT_THAT(Post(client), IsOk());
}

TEST(HttpClientTest, IPv6AddressesWork) {
  std::unique_ptr<RawServer> server;
  try {
    server = std::make_unique<RawServer>(RawServer::Options{.host = "::1"}, Echo);
  } catch (const std::runtime_error&) {
    GTEST_SKIP() << "this machine has no IPv6";
  }
  HttpClient client(At(server->address()), nullptr, {});
  EXPECT_THAT(Post(client), IsOk());
}

// What may stand between a request and the next.
struct Form {
  std::string name;
  std::string bytes;
  bool keeps = true;
};

class AnswerFormTest : public ::testing::TestWithParam<Form> {};

TEST_P(AnswerFormTest, IsUnderstood) {
  RawServer server([](RawPeer& peer, int) {
    while (!peer.ReceiveRequest().empty()) {
      peer.Send(GetParam().bytes);
      if (!GetParam().keeps) return;
    }
  });
  HttpClient client(At(server.address()), nullptr, {});
  for (int i = 0; i < 2; ++i) {
    ASSERT_OK_AND_ASSIGN(const HttpAnswer answer, Post(client));
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(answer.body, "pong!");
  }
  EXPECT_EQ(server.num_connections(), GetParam().keeps ? 1 : 2);
}

INSTANTIATE_TEST_SUITE_P(
    All, AnswerFormTest,
    ::testing::Values(
        Form{"Sized", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\npong!"},
        Form{"Chunked",
             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\npon\r\n2;x=y\r\ng!\r\n0\r\n"
             "\r\n"},
        Form{
            "ChunkedWithTrailer",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\npong!\r\n0\r\nA: b\r\n\r\n"},
        Form{"AfterInterimAnswers",
             "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 "
             "OK\r\nContent-Length: 5\r\n\r\npong!"},
        Form{"UntilTheEnd", "HTTP/1.1 200 OK\r\n\r\npong!", false},
        Form{"OfHttp10", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\npong!", false},
        Form{"LastOne", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\npong!",
             false}),
    [](const auto& test) { return test.param.name; });

class BadAnswerTest : public ::testing::TestWithParam<Form> {};

TEST_P(BadAnswerTest, IsAnErrorAndNothingIsKept) {
  RawServer server([](RawPeer& peer, int) {
    peer.ReceiveRequest();
    peer.Send(GetParam().bytes);
    peer.AwaitEnd();
  });
  HttpClient client(At(server.address()), nullptr,
                    {.max_body_bytes = 1000, .max_header_bytes = 2000});
  EXPECT_THAT(Post(client), StatusIs(absl::StatusCode::kInternal, HasSubstr(server.address())));
  EXPECT_THAT(Post(client), StatusIs(absl::StatusCode::kInternal, HasSubstr(server.address())));
  EXPECT_EQ(server.num_connections(), 2);
}

std::string Chunks(int number) {
  std::string all = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < number; ++i) absl::StrAppend(&all, "64\r\n", std::string(100, 'x'), "\r\n");
  return all;
}

INSTANTIATE_TEST_SUITE_P(
    All, BadAnswerTest,
    ::testing::Values(
        Form{"OtherProtocol", "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"},
        Form{"Http2", std::string("\0\0\6\4\0\0\0\0\0\0\5\0\0@\0", 15)},
        Form{"BodyTooLarge", "HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n"},
        Form{"BodyAbsurd", "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n"},
        Form{"LengthTwice", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"},
        Form{"LengthNegative", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"},
        Form{"ChunksTooLarge", Chunks(11)},
        Form{"ChunkAbsurd",
             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\n"},
        Form{"ChunkNoNumber", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"},
        Form{"HeaderTooLarge",
             absl::StrCat("HTTP/1.1 200 OK\r\nA: ", std::string(3000, 'a'), "\r\n\r\n")},
        Form{"HeaderWithoutEnd", absl::StrCat("HTTP/1.1 200 OK\r\nA: ", std::string(40000, 'a'))},
        Form{"InterimForever",
             [] {
               std::string all;
               for (int i = 0; i < 20; ++i) all += "HTTP/1.1 100 Continue\r\n\r\n";
               return all;
             }()}),
    [](const auto& test) { return test.param.name; });

TEST(HttpClientTest, UnsizedAnswerOverTheLimitIsRefused) {
  RawServer server([](RawPeer& peer, int) {
    peer.ReceiveRequest();
    peer.Send(absl::StrCat("HTTP/1.1 200 OK\r\n\r\n", std::string(2000, 'x')));
  });
  HttpClient client(At(server.address()), nullptr, {.max_body_bytes = 1000});
  EXPECT_THAT(Post(client), StatusIs(absl::StatusCode::kInternal));
}

TEST(HttpClientTest, AnswerBeforeTheRequestIsThroughCounts) {
  RawServer server([](RawPeer& peer, int) {
    peer.Receive();
    peer.Answer(413, "", "Connection: close\r\n");
    peer.AwaitEnd();
  });
  HttpClient client(At(server.address()), nullptr, {});
  ASSERT_OK_AND_ASSIGN(const HttpAnswer answer, Post(client, std::string(8 << 20, 'x')));
  EXPECT_EQ(answer.status, 413);
}

TEST(HttpClientTest, SilenceEndsAtTheDeadline) {
  RawServer server([](RawPeer& peer, int) { peer.AwaitEnd(); });
  HttpClient client(At(server.address()), nullptr, {});
  EXPECT_THAT(Post(client, "", Until::After(absl::Milliseconds(50))),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr(server.address())));
}

TEST(HttpClientTest, DribbleEndsAtTheDeadline) {
  RawServer server([](RawPeer& peer, int) {
    peer.ReceiveRequest();
    peer.Send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\np");
    peer.AwaitEnd();
  });
  HttpClient client(At(server.address()), nullptr, {});
  EXPECT_THAT(Post(client, "", Until::After(absl::Milliseconds(50))),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
}

TEST(HttpClientTest, StopEndsACallAtOnce) {
  std::promise<void> asked;
  RawServer server([&](RawPeer& peer, int) {
    peer.ReceiveRequest();
    asked.set_value();
    peer.AwaitEnd();
  });
  HttpClient client(At(server.address()), nullptr, {});
  std::stop_source stop;
  std::future<absl::Status> call = std::async(std::launch::async, [&] {
    return Post(client, "", Until::After(kLong, stop.get_token())).status();
  });
  asked.get_future().wait();
  const absl::Time before = absl::Now();
  stop.request_stop();
  EXPECT_THAT(call.get(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_LT(absl::Now() - before, absl::Seconds(1));
  EXPECT_THAT(Post(client, "", Until::After(kLong, stop.get_token())),
              StatusIs(absl::StatusCode::kCancelled));
}

// --- TLS ---

class TlsTest : public ::testing::Test {
 protected:
  ServerTls Server(const TestAuthority::Request& request = TestAuthority::Request()) const {
    const PemPair pair = authority_.Issue(request);
    return {pair.certificate, pair.private_key, ""};
  }
  std::unique_ptr<const TlsClient> Client(ClientTls tls) const {
    auto client = TlsClient::Create(tls);
    EXPECT_THAT(client, IsOk());
    return *std::move(client);
  }
  std::unique_ptr<const TlsClient> Client() const {
    return Client({.root_certificates = authority_.certificate()});
  }
  // Calls a server with `server_tls`.
  absl::Status Outcome(const ServerTls& server_tls, const TlsClient& tls,
                       const std::string& host = "127.0.0.1") const {
    RawServer server({.tls = server_tls}, Echo);
    HttpClient client({host, static_cast<uint16_t>(server.port())}, &tls, {});
    const absl::StatusOr<HttpAnswer> answer = Post(client);
    EXPECT_EQ(answer.ok() ? answer->body : "ping", "ping");
    return answer.status();
  }

  TestAuthority authority_;
};

TEST_F(TlsTest, TrustedServerIsTalkedToByNameAndByAddress) {
  const auto tls = Client();
  EXPECT_THAT(Outcome(Server(), *tls), IsOk());
  EXPECT_THAT(Outcome(Server(), *tls, "localhost"), IsOk());
}

TEST_F(TlsTest, LargeBodiesAndManyCallsPass) {
  RawServer server({.tls = Server()}, Echo);
  const auto tls = Client();
  HttpClient client(At(server.address()), tls.get(), {});
  const std::string large(6 << 20, 'x');
  for (const std::string& body : {std::string("small"), large, std::string(), large}) {
    ASSERT_OK_AND_ASSIGN(const HttpAnswer answer, Post(client, body));
    EXPECT_EQ(answer.body, body);
  }
  EXPECT_EQ(server.num_connections(), 1);
}

TEST_F(TlsTest, ConnectionThatTheServerClosedIsReplaced) {
  RawServer server({.tls = Server()}, [](RawPeer& peer, int) {
    if (!peer.ReceiveRequest().empty()) peer.Answer(200, "");
  });
  const auto tls = Client();
  HttpClient client(At(server.address()), tls.get(), {});
  for (int i = 0; i < 3; ++i) EXPECT_THAT(Post(client), IsOk());
}

TEST_F(TlsTest, UnknownAuthorityIsRefusedForGood) {
  const TestAuthority other;
  const auto tls = Client({.root_certificates = other.certificate()});
  EXPECT_THAT(Outcome(Server(), *tls), StatusIs(absl::StatusCode::kFailedPrecondition,
                                                HasSubstr("none of the trusted root")));
}

TEST_F(TlsTest, SystemsAuthoritiesDoNotKnowOurs) {
  EXPECT_THAT(Outcome(Server(), *Client({})), StatusIs(absl::StatusCode::kFailedPrecondition,
                                                       HasSubstr("none of the trusted root")));
}

TEST_F(TlsTest, CertificateOfAnotherHostIsRefused) {
  const ServerTls tls = Server({.names = "DNS:elsewhere.example,IP:10.1.2.3"});
  EXPECT_THAT(Outcome(tls, *Client()),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("for another host: elsewhere.example, 10.1.2.3")));
  EXPECT_THAT(Outcome(tls, *Client(), "localhost"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("for another host")));
}

TEST_F(TlsTest, ExpiredCertificateIsRefused) {
  EXPECT_THAT(Outcome(Server({.valid_for_s = -60}), *Client()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("it expired on ")));
}

TEST_F(TlsTest, PlaintextServerIsRefused) {
  RawServer server([](RawPeer& peer, int) {
    peer.Receive();
    peer.Answer(400, "");
  });
  const auto tls = Client();
  HttpClient client(At(server.address()), tls.get(), {});
  EXPECT_THAT(Post(client),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("does not speak TLS")));
}

TEST_F(TlsTest, ServerThatWantsAClientCertificateGetsIt) {
  ServerTls mutual = Server();
  mutual.client_ca = authority_.certificate();
  const PemPair pair = authority_.Issue();
  const auto with = Client({authority_.certificate(), pair.certificate, pair.private_key});
  EXPECT_THAT(Outcome(mutual, *with), IsOk());
}

TEST_F(TlsTest, LackOfAClientCertificateIsSaid) {
  ServerTls mutual = Server();
  mutual.client_ca = authority_.certificate();
  EXPECT_THAT(Outcome(mutual, *Client()), StatusIs(absl::StatusCode::kFailedPrecondition,
                                                   HasSubstr("requires a client certificate")));
}

TEST_F(TlsTest, StrangersClientCertificateIsRefused) {
  ServerTls mutual = Server();
  mutual.client_ca = authority_.certificate();
  const PemPair stranger = TestAuthority().Issue();
  const auto tls = Client({authority_.certificate(), stranger.certificate, stranger.private_key});
  EXPECT_THAT(Outcome(mutual, *tls), StatusIs(absl::StatusCode::kFailedPrecondition,
                                              HasSubstr("refused the client certificate")));
}

TEST_F(TlsTest, HandshakeWithoutAnAnswerEndsAtTheDeadline) {
  RawServer server([](RawPeer& peer, int) { peer.AwaitEnd(); });
  const auto tls = Client();
  HttpClient client(At(server.address()), tls.get(), {});
  EXPECT_THAT(Post(client, "", Until::After(absl::Milliseconds(50))),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
}

TEST_F(TlsTest, UnusablePemIsNamed) {
  const PemPair pair = authority_.Issue();
  const auto refused = [](const ClientTls& tls, const char* what) {
    EXPECT_THAT(TlsClient::Create(tls),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(what)));
  };
  refused({.root_certificates = "no PEM"}, "no PEM certificate in the root certificates");
  refused({.root_certificates = authority_.certificate() +
                                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
          "certificate 2 of the root certificates is damaged");
  refused({.certificate_chain = pair.certificate}, "together");
  refused({.private_key = pair.private_key}, "together");
  refused({.certificate_chain = "x", .private_key = pair.private_key}, "client's certificates");
  refused({.certificate_chain = pair.certificate, .private_key = "x"}, "private key");
  refused({.certificate_chain = pair.certificate, .private_key = authority_.Issue().private_key},
          "does not belong");
}

}  // namespace
}  // namespace fedumm::transport
