#include "transport/http_server.h"

#include <gmock/gmock.h>

#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/testing/status_matchers.h"
#include "tests/transport/raw_client.h"
#include "tests/transport/test_certificates.h"

namespace fedumm::transport {
namespace {

using fedumm::testing::IsOk;
using fedumm::testing::StatusIs;
using fedumm::testing::TestAuthority;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using Answer = RawClient::Answer;
using ExchangePtr = std::shared_ptr<HttpExchange>;

std::string Post(std::string_view path, std::string_view body, std::string_view headers = "") {
  return absl::StrCat("POST ", std::string(path), " HTTP/1.1\r\nHost: h\r\n", std::string(headers),
                      "Content-Length: ", body.size(), "\r\n\r\n", std::string(body));
}

// Requests that a test answers itself, in the order in which they came.
class Inbox {
 public:
  void Add(ExchangePtr exchange) {
    const std::lock_guard lock(mutex_);
    exchanges_.push_back(std::move(exchange));
    ++num_added_;
    changed_.notify_all();
  }
  // Null if none comes within ten seconds.
  ExchangePtr Take() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(10), [this] { return !exchanges_.empty(); });
    if (exchanges_.empty()) return nullptr;
    ExchangePtr exchange = std::move(exchanges_.front());
    exchanges_.pop_front();
    return exchange;
  }
  int num_added() {
    const std::lock_guard lock(mutex_);
    return num_added_;
  }
  bool WaitFor(int count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [&] { return num_added_ >= count; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<ExchangePtr> exchanges_;
  int num_added_ = 0;
};

// Something that happens once, seen within ten seconds or not.
class Event {
 public:
  void Set() { promise_.set_value(); }
  bool Wait() { return future_.wait_for(std::chrono::seconds(10)) == std::future_status::ready; }
  bool IsSet() { return future_.wait_for(std::chrono::seconds(0)) == std::future_status::ready; }

 private:
  std::promise<void> promise_;
  std::future<void> future_ = promise_.get_future();
};

// /echo answers with the body at once; all else goes to the inbox.
class HttpServerTest : public ::testing::Test {
 protected:
  void Start(HttpServer::Options options = {}) {
    options.address = "127.0.0.1:0";
    ASSERT_OK_AND_ASSIGN(server_,
                         HttpServer::Start(std::move(options), [this](ExchangePtr exchange) {
                           if (exchange->request().path != "/echo") {
                             inbox_.Add(std::move(exchange));
                             return;
                           }
                           std::string body = exchange->request().body;
                           exchange->Respond({.content_type = "text/plain", .body = body});
                         }));
  }
  int port() const { return server_->port(); }
  // That the server is still well.
  void ExpectServes() {
    RawClient peer(port());
    peer.Send(Post("/echo", "well"));
    EXPECT_EQ(peer.ReadAnswer().body, "well");
  }

  Inbox inbox_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, AnswersInOneSegment) {
  Start();
  RawClient peer(port());
  ASSERT_TRUE(peer.Send(Post("/echo?query", "hello")));
  EXPECT_EQ(peer.ReadSome(),
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello");
}

TEST_F(HttpServerTest, HandsTheRequestOver) {
  Start();
  RawClient peer(port());
  const std::string text =
      Post("/a/b?c=d", std::string("x\0y", 3), "X-Name:  a value \r\nx-NAME: b\r\n");
  peer.Send(text);
  const ExchangePtr exchange = inbox_.Take();
  ASSERT_NE(exchange, nullptr);
  const HttpRequest& request = exchange->request();
  EXPECT_EQ(request.method, "POST");
  EXPECT_EQ(request.path, "/a/b");
  EXPECT_EQ(request.Header("x-name"), "a value, b");
  EXPECT_EQ(request.Header("absent"), "");
  EXPECT_EQ(request.body, std::string("x\0y", 3));
  EXPECT_EQ(request.head_bytes, text.size() - 3);
  exchange->Respond({.status = 418, .headers = {{"x-more", "yes"}}});
  const Answer answer = peer.ReadAnswer();
  EXPECT_EQ(answer.status, 418);
  EXPECT_EQ(answer.headers.at("x-more"), "yes");
  EXPECT_EQ(answer.headers.at("content-length"), "0");
}

TEST_F(HttpServerTest, KeepsTheConnectionAsAsked) {
  Start();
  RawClient peer(port());
  for (int i = 0; i < 3; ++i) {
    peer.Send(Post("/echo", absl::StrCat(i)));
    EXPECT_EQ(peer.ReadAnswer().body, absl::StrCat(i));
  }
  peer.Send(Post("/echo", "last", "Connection: close\r\n"));
  const Answer answer = peer.ReadAnswer();
  EXPECT_EQ(answer.body, "last");
  EXPECT_EQ(answer.headers.at("connection"), "close");
  EXPECT_TRUE(peer.IsEnded());
  RawClient old(port());
  old.Send("POST /echo HTTP/1.0\r\nContent-Length: 3\r\n\r\nold");
  EXPECT_EQ(old.ReadAnswer().body, "old");
  EXPECT_TRUE(old.IsEnded());
}

TEST_F(HttpServerTest, AnswersPipelinedRequestsInOrder) {
  Start();
  RawClient peer(port());
  const std::string large(100'000, 'x');
  // The second comes in the same segment, the third while the first is held.
  peer.Send(Post("/hold", "") + Post("/echo", "second"));
  const ExchangePtr exchange = inbox_.Take();
  ASSERT_NE(exchange, nullptr);
  peer.Send("\r\n" + Post("/echo", large) + Post("/echo", "fourth"));
  exchange->Respond({.body = "first"});
  EXPECT_EQ(peer.ReadAnswer().body, "first");
  EXPECT_EQ(peer.ReadAnswer().body, "second");
  EXPECT_EQ(peer.ReadAnswer().body, large);
  EXPECT_EQ(peer.ReadAnswer().body, "fourth");
}

TEST_F(HttpServerTest, TakesARequestByteByByte) {
  Start();
  RawClient peer(port());
  for (const char c : Post("/echo", "slowly")) peer.Send({&c, 1});
  EXPECT_EQ(peer.ReadAnswer().body, "slowly");
}

TEST_F(HttpServerTest, TakesChunkedBodies) {
  Start();
  RawClient peer(port());
  const std::string head = "POST /echo HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n";
  const std::string chunk(300'000, 'c');
  std::string request = head + "5;ext=1\r\nfirst\r\n" +
                        absl::StrCat(absl::Hex(chunk.size()), "\r\n", chunk, "\r\n") +
                        "0\r\nx-trailer: 1\r\n\r\n";
  peer.Send(request + Post("/echo", "next"));
  EXPECT_EQ(peer.ReadAnswer().body, "first" + chunk);
  EXPECT_EQ(peer.ReadAnswer().body, "next");
  for (const char c : head + "0\r\n\r\n") peer.Send({&c, 1});
  EXPECT_EQ(peer.ReadAnswer().status, 200);
  for (const char c : head + "3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n") peer.Send({&c, 1});
  EXPECT_EQ(peer.ReadAnswer().body, "abc0123456789");
}

TEST_F(HttpServerTest, TrailersAreNoHeaders) {
  Start();
  RawClient peer(port());
  peer.Send("POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nflwr-signature: 1\r\n\r\n");
  const ExchangePtr exchange = inbox_.Take();
  ASSERT_NE(exchange, nullptr);
  EXPECT_EQ(exchange->request().Header("flwr-signature"), "");
  exchange->Respond({});
}

TEST_F(HttpServerTest, TellsAPeerThatAsksToGoOn) {
  Start();
  RawClient peer(port());
  peer.Send("POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
  EXPECT_EQ(peer.ReadAnswer().status, 100);
  peer.Send("body");
  EXPECT_EQ(peer.ReadAnswer().body, "body");
  // One that does not wait needs no answer.
  peer.Send(Post("/echo", "body", "Expect: 100-continue\r\n"));
  EXPECT_EQ(peer.ReadAnswer().status, 200);
}

TEST_F(HttpServerTest, TellsOfItsHealth) {
  Start();
  RawClient peer(port());
  peer.Send("GET /health HTTP/1.1\r\nHost: h\r\n\r\n");
  const Answer got = peer.ReadAnswer();
  EXPECT_EQ(got.status, 200);
  EXPECT_EQ(got.body, "");
  peer.Send("HEAD /health HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_EQ(peer.ReadAnswer(/*to_head=*/true).status, 200);
  peer.Send(Post("/health", ""));
  const Answer refused = peer.ReadAnswer();
  EXPECT_EQ(refused.status, 405);
  EXPECT_EQ(refused.headers.at("allow"), "GET, HEAD");
}

TEST_F(HttpServerTest, AnswersToHeadHaveNoBody) {
  Start();
  RawClient peer(port());
  peer.Send("HEAD /x HTTP/1.1\r\n\r\n" + Post("/echo", "next"));
  const ExchangePtr exchange = inbox_.Take();
  ASSERT_NE(exchange, nullptr);
  exchange->Respond({.status = 405,
                     .body = std::string(20'000, 'b'),
                     .segments = {std::make_shared<const std::string>("segment")}});
  const Answer answer = peer.ReadAnswer(/*to_head=*/true);
  EXPECT_EQ(answer.status, 405);
  EXPECT_EQ(answer.headers.at("content-length"), "20007");
  EXPECT_EQ(peer.ReadAnswer().body, "next");
}

TEST_F(HttpServerTest, SendsSegmentsBehindTheBody) {
  Start();
  RawClient peer(port());
  std::string bytes(6 << 20, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * i >> 7);
  const auto segment = std::make_shared<const std::string>(bytes);
  for (const size_t size : {size_t{3}, size_t{100'000}}) {
    peer.Send(Post("/x", ""));
    const ExchangePtr exchange = inbox_.Take();
    ASSERT_NE(exchange, nullptr);
    const std::string body(size, 'b');
    exchange->Respond({.body = body, .segments = {segment, segment}});
    EXPECT_EQ(peer.ReadAnswer().body, body + bytes + bytes);
  }
}

TEST_F(HttpServerTest, RefusesABodyThatIsTooLong) {
  Start({.max_body_bytes = 1'000'000});
  RawClient peer(port());
  // It reads the answer though it is still sending.
  std::thread sender([&] {
    peer.Send("POST /echo HTTP/1.1\r\nContent-Length: 1000001\r\n\r\n" + std::string(900'000, 'x'));
  });
  EXPECT_EQ(peer.ReadAnswer().status, 413);
  sender.join();
  EXPECT_TRUE(peer.IsEnded());
  RawClient chunked(port());
  chunked.Send("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
  chunked.Send(absl::StrCat("7A120\r\n", std::string(500'000, 'x'), "\r\n7A121\r\n"));
  EXPECT_EQ(chunked.ReadAnswer().status, 413);
  EXPECT_TRUE(chunked.IsEnded());
  RawClient largest(port());
  largest.Send(Post("/echo", std::string(1'000'000, 'x')));
  EXPECT_EQ(largest.ReadAnswer().body.size(), 1'000'000);
  RawClient absurd(port());
  absurd.Send("POST /echo HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n");
  EXPECT_EQ(absurd.ReadAnswer().status, 413);
}

TEST_F(HttpServerTest, TakesMoreOfARequestWhoseHeadShowsThatItMay) {
  Start({.max_body_bytes = 100'000, .max_body_of = [](const HttpRequest& head) -> int64_t {
           return head.path == "/echo" && head.Header("token") == "good" ? 1'000'000 : 100'000;
         }});
  RawClient trusted(port());
  trusted.Send(Post("/echo?q=1", std::string(1'000'000, 'x'), "token: good\r\n"));
  EXPECT_EQ(trusted.ReadAnswer().body.size(), 1'000'000);
  RawClient chunked(port());
  chunked.Send("POST /echo HTTP/1.1\r\ntoken: good\r\nTransfer-Encoding: chunked\r\n\r\n");
  chunked.Send(absl::StrCat("7A120\r\n", std::string(500'000, 'x'), "\r\n0\r\n\r\n"));
  EXPECT_EQ(chunked.ReadAnswer().body.size(), 500'000);
  for (const std::string head : {"token: bad\r\n", "", "token: good\r\nExpect: 100-continue\r\n"}) {
    RawClient peer(port());
    peer.Send("POST /echo HTTP/1.1\r\nContent-Length: 1000001\r\n" + head + "\r\n");
    EXPECT_EQ(peer.ReadAnswer().status, 413) << head;
  }
}

TEST_F(HttpServerTest, RefusesAHeaderThatIsTooLong) {
  Start({.max_header_bytes = 1000});
  for (const std::string end : {"", "\r\n\r\n"}) {
    RawClient peer(port());
    peer.Send("GET / HTTP/1.1\r\nX: " + std::string(1000, 'x') + end);
    EXPECT_EQ(peer.ReadAnswer().status, 431);
    EXPECT_TRUE(peer.IsEnded());
  }
  RawClient many(port());
  many.Send("GET / HTTP/1.1\r\n");
  for (int i = 0; i < 1000; ++i) many.Send("a: b\r\n");
  EXPECT_EQ(many.ReadAnswer().status, 431);
}

class MalformedRequestTest : public HttpServerTest,
                             public ::testing::WithParamInterface<std::pair<const char*, int>> {};

TEST_P(MalformedRequestTest, IsRefusedAndEndsTheConnection) {
  Start();
  RawClient peer(port());
  peer.Send(GetParam().first);
  const Answer answer = peer.ReadAnswer();
  EXPECT_EQ(answer.status, GetParam().second);
  EXPECT_THAT(answer.body, AllOf(StartsWith(R"({"detail":")"), EndsWith(R"("})")));
  EXPECT_TRUE(peer.IsEnded());
  EXPECT_EQ(inbox_.num_added(), 0);
  ExpectServes();
}

INSTANTIATE_TEST_SUITE_P(
    Requests, MalformedRequestTest,
    ::testing::Values(
        std::pair{"\x01\x02\x03", 400}, std::pair{"GET\r\n\r\n", 400},
        std::pair{"GET / HTTP/2.0\r\n\r\n", 400},
        std::pair{"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400},
        std::pair{"POST /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400},
        std::pair{"POST /x HTTP/1.1\r\nContent-Length: 1x\r\n\r\n", 400},
        // Two ways to tell where a request ends are a way to smuggle another one in.
        std::pair{"POST /x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
        std::pair{"POST /x HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                  400},
        std::pair{"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
                  400},
        std::pair{"POST /x HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
        std::pair{"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 501},
        std::pair{"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400},
        std::pair{"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
                  400},
        std::pair{"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                  "fffffffffffffffff\r\n",
                  400},
        std::pair{"POST /x HTTP/1.1\r\nExpect: a miracle\r\nContent-Length: 1\r\n\r\n", 417}));

TEST_F(HttpServerTest, RefusesAnEndlessChunkHeader) {
  Start();
  RawClient peer(port());
  peer.Send("POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + std::string(40'000, 'x'));
  EXPECT_EQ(peer.ReadAnswer().status, 400);
}

TEST_F(HttpServerTest, EndsConnectionsThatDoNotGetOn) {
  const absl::Duration soon = absl::Milliseconds(100);
  Start({.idle_timeout = soon, .progress_timeout = soon});
  RawClient silent(port());
  RawClient idle(port());
  idle.Send(Post("/echo", "x"));
  EXPECT_EQ(idle.ReadAnswer().status, 200);
  RawClient in_header(port());
  in_header.Send("POST /echo HTTP/1.1\r\nX-");
  RawClient in_body(port());
  in_body.Send("POST /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nab");
  RawClient in_chunk(port());
  in_chunk.Send("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab");
  for (RawClient* peer : {&silent, &idle, &in_header, &in_body, &in_chunk}) {
    EXPECT_TRUE(peer->IsEnded());
  }
  EXPECT_EQ(inbox_.num_added(), 0);
}

TEST_F(HttpServerTest, EndsAHeaderThatTrickles) {
  Start({.progress_timeout = absl::Milliseconds(200)});
  RawClient peer(port());
  peer.Send("POST /echo HTTP/1.1\r\nX: ");
  // Each byte is progress, but not enough of it. The end shows as a failing write.
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (peer.Send("x") && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  EXPECT_LT(std::chrono::steady_clock::now(), end);
}

TEST_F(HttpServerTest, EndsAPeerThatDoesNotReadItsAnswer) {
  Start({.progress_timeout = absl::Milliseconds(200)});
  RawClient peer(port(), /*receive_buffer=*/4096);
  peer.Send(Post("/x", ""));
  const ExchangePtr exchange = inbox_.Take();
  ASSERT_NE(exchange, nullptr);
  Event gone;
  exchange->OnGone([&] { gone.Set(); });
  exchange->Respond({.segments = {std::make_shared<const std::string>(64 << 20, 'x')}});
  EXPECT_TRUE(gone.Wait());
  ExpectServes();
}

TEST_F(HttpServerTest, HoldsARequestLongerThanAnyTimeout) {
  const absl::Duration soon = absl::Milliseconds(50);
  Start({.idle_timeout = soon, .progress_timeout = soon});
  RawClient peer(port());
  peer.Send(Post("/hold", ""));
  const ExchangePtr exchange = inbox_.Take();
  ASSERT_NE(exchange, nullptr);
  RawClient idle(port());
  EXPECT_TRUE(idle.IsEnded());  // both timeouts have passed by now
  RawClient later(port());
  EXPECT_TRUE(later.IsEnded());
  exchange->Respond({.body = "late"});
  EXPECT_EQ(peer.ReadAnswer().body, "late");
}

TEST_F(HttpServerTest, TurnsConnectionsAwayBeyondTheLimit) {
  Start({.max_connections = 2});
  RawClient first(port());
  RawClient second(port());
  for (RawClient* peer : {&first, &second}) {
    peer->Send(Post("/echo", "in"));
    EXPECT_EQ(peer->ReadAnswer().body, "in");
  }
  RawClient third(port());
  EXPECT_TRUE(third.IsEnded());
  first.Close();
  // The server hears of it at some time soon.
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  Answer answer;
  while (answer.status != 200 && std::chrono::steady_clock::now() < end) {
    RawClient next(port());
    next.Send(Post("/echo", "in"));
    answer = next.ReadAnswer();
  }
  EXPECT_EQ(answer.status, 200);
}

TEST_F(HttpServerTest, ReadsNoMoreLargeBodiesThanItMayHold) {
  Start({.max_body_bytes = 400'000, .max_pending_body_bytes = 400'000});
  RawClient first(port());
  first.Send(Post("/hold", std::string(300'000, '1')));
  const ExchangePtr held = inbox_.Take();
  ASSERT_NE(held, nullptr);
  RawClient second(port());
  std::thread sender([&] { second.Send(Post("/hold", std::string(300'000, '2'))); });
  // Small requests are served all the while.
  for (int i = 0; i < 50; ++i) ExpectServes();
  EXPECT_EQ(inbox_.num_added(), 1);
  held->Respond({});
  const ExchangePtr next = inbox_.Take();
  sender.join();
  ASSERT_NE(next, nullptr);
  EXPECT_EQ(next->request().body, std::string(300'000, '2'));
  next->Respond({});
  EXPECT_EQ(first.ReadAnswer().status, 200);
  EXPECT_EQ(second.ReadAnswer().status, 200);
}

TEST_F(HttpServerTest, APeerThatLeavesGivesItsMemoryBack) {
  Start({.max_body_bytes = 400'000, .max_pending_body_bytes = 400'000});
  const std::string head = "POST /hold HTTP/1.1\r\nContent-Length: 300000\r\n\r\n";
  RawClient halfway(port());
  halfway.Send(head + std::string(200'000, 'x'));
  RawClient waiting(port());
  waiting.Send(head + std::string(100'000, 'x'));
  RawClient last(port());
  std::thread sender([&] { last.Send(head + std::string(300'000, 'x')); });
  waiting.Reset();
  halfway.Reset();
  const ExchangePtr exchange = inbox_.Take();
  sender.join();
  ASSERT_NE(exchange, nullptr);
  exchange->Respond({});
  EXPECT_EQ(last.ReadAnswer().status, 200);
}

TEST_F(HttpServerTest, ABodyThatTricklesMakesWayForOthers) {
  Start({.max_body_bytes = 400'000, .max_pending_body_bytes = 400'000});
  RawClient slow(port());
  slow.Send("POST /hold HTTP/1.1\r\nContent-Length: 400000\r\n\r\n" + std::string(200'000, 'x'));
  ExpectServes();
  RawClient other(port());
  std::thread sender([&] { other.Send(Post("/echo", std::string(300'000, 'y'))); });
  EXPECT_EQ(other.ReadAnswer().status, 200);
  sender.join();
  EXPECT_TRUE(slow.IsEnded());
  EXPECT_EQ(inbox_.num_added(), 0);
}

TEST_F(HttpServerTest, LargeBodiesThatWaitTooLongAreAskedToComeAgain) {
  Start({.max_body_bytes = 400'000,
         .max_pending_body_bytes = 400'000,
         .progress_timeout = absl::Milliseconds(300)});
  RawClient first(port());
  first.Send(Post("/hold", std::string(300'000, '1')));
  const ExchangePtr held = inbox_.Take();
  ASSERT_NE(held, nullptr);
  RawClient second(port());
  second.Send("POST /hold HTTP/1.1\r\nContent-Length: 300000\r\n\r\n" + std::string(100'000, 'x'));
  EXPECT_EQ(second.ReadAnswer().status, 503);
  held->Respond({});
  EXPECT_EQ(first.ReadAnswer().status, 200);
}

TEST_F(HttpServerTest, NoticesAPeerThatLeavesWhileItWaits) {
  Start();
  for (const bool reset : {false, true}) {
    RawClient peer(port());
    peer.Send(Post("/hold", "") + Post("/echo", "more"));
    const ExchangePtr exchange = inbox_.Take();
    ASSERT_NE(exchange, nullptr);
    Event gone;
    exchange->OnGone([&] { gone.Set(); });
    EXPECT_FALSE(gone.IsSet());
    if (reset) {
      peer.Reset();
    } else {
      peer.Close();
    }
    EXPECT_TRUE(gone.Wait());
    exchange->Respond({.body = "too late"});
    // One that asks only now hears of it at once.
    Event also_gone;
    exchange->OnGone([&] { also_gone.Set(); });
    EXPECT_TRUE(also_gone.IsSet());
  }
  ExpectServes();
}

TEST_F(HttpServerTest, APeerThatHasItsAnswerIsNotReportedAsDisconnected) {
  Start();
  Event gone;
  {
    RawClient peer(port());
    peer.Send(Post("/hold", ""));
    const ExchangePtr exchange = inbox_.Take();
    ASSERT_NE(exchange, nullptr);
    exchange->OnGone([&] { gone.Set(); });
    exchange->Respond({.body = "answer"});
    EXPECT_EQ(peer.ReadAnswer().body, "answer");
    // The next request is served only after the server has seen the end of the answer.
    peer.Send(Post("/echo", "next"));
    EXPECT_EQ(peer.ReadAnswer().body, "next");
    exchange->OnGone([&] { gone.Set(); });
  }
  server_.reset();
  EXPECT_FALSE(gone.IsSet());
}

TEST_F(HttpServerTest, APeerThatClosedItsHalfIsAnswered) {
  Start();
  RawClient peer(port());
  peer.Send(Post("/echo", "half"));
  peer.CloseHalf();
  EXPECT_EQ(peer.ReadAnswer().body, "half");
  EXPECT_TRUE(peer.IsEnded());
}

TEST_F(HttpServerTest, AnExchangeThatIsLetGoAnswers503) {
  Start();
  RawClient peer(port());
  peer.Send(Post("/hold", ""));
  inbox_.Take().reset();
  EXPECT_EQ(peer.ReadAnswer().status, 503);
  peer.Send(Post("/echo", "on"));
  EXPECT_EQ(peer.ReadAnswer().body, "on");
}

TEST_F(HttpServerTest, AnswersOnlyOnce) {
  Start();
  RawClient peer(port());
  peer.Send(Post("/hold", ""));
  const ExchangePtr exchange = inbox_.Take();
  ASSERT_NE(exchange, nullptr);
  exchange->Respond({.body = "one"});
  exchange->Respond({.body = "two"});
  exchange->StartStream("text/plain");
  EXPECT_FALSE(exchange->Write("three"));
  EXPECT_EQ(peer.ReadAnswer().body, "one");
  peer.Send(Post("/echo", "next"));
  EXPECT_EQ(peer.ReadAnswer().body, "next");
}

TEST_F(HttpServerTest, StreamsAnAnswerInChunks) {
  Start();
  RawClient peer(port());
  peer.Send(Post("/stream", ""));
  const ExchangePtr exchange = inbox_.Take();
  ASSERT_NE(exchange, nullptr);
  exchange->StartStream("application/x-pieces");
  EXPECT_THAT(peer.ReadSome(),
              AllOf(StartsWith("HTTP/1.1 200 OK\r\n"),
                    HasSubstr("\r\ncontent-type: application/x-pieces\r\n"),
                    HasSubstr("\r\ntransfer-encoding: chunked\r\n"), EndsWith("\r\n\r\n")));
  EXPECT_TRUE(exchange->Write("first"));
  EXPECT_EQ(peer.ReadSome(), "5\r\nfirst\r\n");
  EXPECT_TRUE(exchange->Write(""));  // no end
  EXPECT_TRUE(exchange->Write("0123456789abcdef"));
  EXPECT_EQ(peer.ReadSome(), "10\r\n0123456789abcdef\r\n");
  exchange->Finish();
  EXPECT_EQ(peer.ReadSome(), "0\r\n\r\n");
}

TEST_F(HttpServerTest, GoesOnAfterAStream) {
  Start();
  RawClient peer(port());
  peer.Send(Post("/stream", "") + Post("/echo", "next"));
  ExchangePtr exchange = inbox_.Take();
  ASSERT_NE(exchange, nullptr);
  const std::string piece(100'000, 'p');
  exchange->StartStream("text/plain");
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(exchange->Write(piece));
  exchange->Finish();
  EXPECT_FALSE(exchange->Write("more"));
  exchange.reset();
  EXPECT_EQ(peer.ReadAnswer().body.size(), 20 * piece.size());
  EXPECT_EQ(peer.ReadAnswer().body, "next");
}

TEST_F(HttpServerTest, StreamsToAnOldPeerUpToTheEndOfTheConnection) {
  Start();
  RawClient peer(port());
  peer.Send("GET /stream HTTP/1.0\r\n\r\n");
  const ExchangePtr exchange = inbox_.Take();
  ASSERT_NE(exchange, nullptr);
  exchange->StartStream("text/plain");
  exchange->Write("one");
  exchange->Write("two");
  exchange->Finish();
  EXPECT_THAT(peer.ReadAll(), AllOf(Not(HasSubstr("chunked")), EndsWith("\r\n\r\nonetwo")));
}

TEST_F(HttpServerTest, AStreamWithoutItsEndIsCutOff) {
  Start();
  RawClient peer(port());
  peer.Send(Post("/stream", ""));
  ExchangePtr exchange = inbox_.Take();
  ASSERT_NE(exchange, nullptr);
  exchange->StartStream("text/plain");
  exchange->Write("part");
  exchange.reset();
  EXPECT_EQ(peer.ReadAnswer().status, 0);
}

TEST_F(HttpServerTest, AStreamStopsAtAPeerThatDoesNotRead) {
  Start();
  RawClient peer(port(), /*receive_buffer=*/4096);
  peer.Send(Post("/stream", ""));
  const ExchangePtr exchange = inbox_.Take();
  ASSERT_NE(exchange, nullptr);
  Event gone;
  exchange->OnGone([&] { gone.Set(); });
  exchange->StartStream("text/plain");
  const std::string piece(1 << 20, 'p');
  int num_written = 0;
  while (exchange->Write(piece)) {
    ASSERT_LT(++num_written, 64);
  }
  EXPECT_GE(num_written, 8);
  peer.Close();
  EXPECT_TRUE(gone.Wait());
  EXPECT_FALSE(exchange->Write("more"));
}

TEST_F(HttpServerTest, ShutdownEndsIdleConnectionsAndAnswersTheRest) {
  Start();
  RawClient idle(port());
  idle.Send(Post("/echo", "x"));
  EXPECT_EQ(idle.ReadAnswer().status, 200);
  RawClient busy(port());
  busy.Send(Post("/hold", ""));
  const ExchangePtr exchange = inbox_.Take();
  ASSERT_NE(exchange, nullptr);
  std::thread shutdown([&] { server_->Shutdown(); });
  EXPECT_TRUE(idle.IsEnded());
  exchange->Respond({.body = "last"});
  const Answer answer = busy.ReadAnswer();
  EXPECT_EQ(answer.body, "last");
  EXPECT_EQ(answer.headers.at("connection"), "close");
  busy.Close();
  shutdown.join();
  EXPECT_FALSE(RawClient(port()).connected());
  server_->Shutdown();
}

TEST_F(HttpServerTest, ShutdownWaitsTwoSecondsForAnswersThatAreHeld) {
  Start();
  RawClient peer(port());
  peer.Send(Post("/hold", ""));
  const ExchangePtr exchange = inbox_.Take();
  ASSERT_NE(exchange, nullptr);
  Event gone;
  exchange->OnGone([&] { gone.Set(); });
  const absl::Time start = absl::Now();
  server_->Shutdown();
  EXPECT_GE(absl::Now() - start, absl::Seconds(1.9));
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  EXPECT_TRUE(gone.IsSet());
  server_.reset();
  exchange->Respond({});  // the peer has disconnected
}

TEST_F(HttpServerTest, SaysWhyItCannotStart) {
  Start();
  const auto start = [](const std::string& address) {
    return HttpServer::Start({.address = address}, [](const ExchangePtr&) {}).status();
  };
  EXPECT_THAT(start("nonsense"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(start("127.0.0.1:70000"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(start(absl::StrCat("127.0.0.1:", port())),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("Address already in use")));
  EXPECT_THAT(start("localhost:0"), IsOk());
}

// Connections that hold a poll cost memory, and no thread.
TEST_F(HttpServerTest, HoldsThousandsOfPollsOnAFewThreads) {
  constexpr int kNumPeers = 3000;
  Start();
  ExpectServes();
  std::vector<std::unique_ptr<RawClient>> peers;
  for (int i = 0; i < kNumPeers; ++i) {
    peers.push_back(std::make_unique<RawClient>(port()));
    ASSERT_TRUE(peers.back()->Send(Post("/hold", absl::StrCat(i)))) << i;
  }
  ASSERT_TRUE(inbox_.WaitFor(kNumPeers));
  std::vector<ExchangePtr> held;
  for (int i = 0; i < kNumPeers; ++i) held.push_back(inbox_.Take());
  ExpectServes();
  for (const ExchangePtr& exchange : held) {
    std::string body = exchange->request().body;
    exchange->Respond({.body = std::move(body)});
  }
  for (int i = 0; i < kNumPeers; ++i) EXPECT_EQ(peers[i]->ReadAnswer().body, absl::StrCat(i));
}

class HttpServerTlsTest : public HttpServerTest {
 protected:
  ServerTls Tls(bool mutual = false) {
    const fedumm::testing::PemPair pair = ca_.Issue();
    return {.certificate_chain = pair.certificate + ca_.certificate(),
            .private_key = pair.private_key,
            .client_ca = mutual ? client_ca_.certificate() : ""};
  }

  TestAuthority ca_;
  TestAuthority client_ca_;
};

TEST_F(HttpServerTlsTest, AnswersThroughTls) {
  Start({.tls = Tls()});
  for (const int version : {TLS1_3_VERSION, TLS1_2_VERSION}) {
    RawClient peer(port());
    ASSERT_TRUE(peer.StartTls(ca_.certificate(), "", "", version));
    const std::string large(3 << 20, 'l');
    for (const std::string& body : {std::string("small"), large, std::string("again")}) {
      peer.Send(Post("/echo", body));
      EXPECT_EQ(peer.ReadAnswer().body, body);
    }
    peer.Send(Post("/echo", "1") + Post("/echo", "2", "Connection: close\r\n"));
    EXPECT_EQ(peer.ReadAnswer().body, "1");
    EXPECT_EQ(peer.ReadAnswer().body, "2");
    EXPECT_TRUE(peer.IsEnded());
  }
}

TEST_F(HttpServerTlsTest, NoticesAPeerThatLeaves) {
  Start({.tls = Tls()});
  RawClient peer(port());
  ASSERT_TRUE(peer.StartTls(ca_.certificate()));
  peer.Send(Post("/hold", ""));
  const ExchangePtr exchange = inbox_.Take();
  ASSERT_NE(exchange, nullptr);
  Event gone;
  exchange->OnGone([&] { gone.Set(); });
  peer.Close();
  EXPECT_TRUE(gone.Wait());
}

TEST_F(HttpServerTlsTest, RefusesOldVersions) {
  Start({.tls = Tls()});
  RawClient peer(port());
  EXPECT_FALSE(peer.StartTls(ca_.certificate(), "", "", TLS1_1_VERSION));
}

TEST_F(HttpServerTlsTest, LetsOnlyCertifiedPeersInIfAsked) {
  Start({.tls = Tls(/*mutual=*/true)});
  const fedumm::testing::PemPair good = client_ca_.Issue();
  RawClient peer(port());
  ASSERT_TRUE(peer.StartTls(ca_.certificate(), good.certificate, good.private_key));
  peer.Send(Post("/echo", "me"));
  EXPECT_EQ(peer.ReadAnswer().body, "me");
  RawClient without(port());
  without.StartTls(ca_.certificate());  // TLS 1.3 finds out only afterwards
  without.Send(Post("/echo", "me"));
  EXPECT_EQ(without.ReadAnswer().status, 0);
  const fedumm::testing::PemPair bad = ca_.Issue();
  RawClient wrong(port());
  wrong.StartTls(ca_.certificate(), bad.certificate, bad.private_key);
  wrong.Send(Post("/echo", "me"));
  EXPECT_EQ(wrong.ReadAnswer().status, 0);
}

TEST_F(HttpServerTlsTest, TellsAPeerInPlaintextThatItSpeaksTls) {
  Start({.tls = Tls()});
  RawClient peer(port());
  peer.Send(Post("/echo", "plain"));
  const Answer answer = peer.ReadAnswer();
  EXPECT_EQ(answer.status, 400);
  EXPECT_THAT(answer.body, HasSubstr("TLS"));
  EXPECT_TRUE(peer.IsEnded());
  RawClient nonsense(port());
  nonsense.Send(std::string(100, '\0'));
  EXPECT_THAT(nonsense.ReadAll(), Not(HasSubstr("HTTP")));
}

TEST_F(HttpServerTlsTest, EndsAPeerThatSpeaksTlsToPlaintext) {
  Start();
  RawClient peer(port());
  EXPECT_FALSE(peer.StartTls(ca_.certificate()));
  ExpectServes();
}

TEST_F(HttpServerTlsTest, RefusesCertificatesThatCannotBeUsed) {
  const auto start = [](ServerTls tls) {
    return HttpServer::Start({.address = "127.0.0.1:0", .tls = std::move(tls)},
                             [](const ExchangePtr&) {})
        .status();
  };
  ServerTls tls = Tls();
  tls.private_key = ca_.Issue().private_key;
  EXPECT_THAT(start(tls), StatusIs(absl::StatusCode::kInvalidArgument));
  tls = Tls();
  tls.certificate_chain = "no certificate";
  EXPECT_THAT(start(tls), StatusIs(absl::StatusCode::kInvalidArgument));
  tls = Tls();
  tls.client_ca = "none either";
  EXPECT_THAT(start(tls), StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace fedumm::transport
