#include "base/host_port.h"

#include <gmock/gmock.h>

#include "tests/testing/status_matchers.h"

namespace fedumm {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

HostPort At(const std::string& address) { return *HostPort::ParseListener(address); }

TEST(HostPortTest, NamesAndAddressesAreParsed) {
  EXPECT_EQ(At("localhost:80").host, "localhost");
  EXPECT_EQ(At("127.0.0.1:9092").port, 9092);
  EXPECT_EQ(At("[::1]:9092").host, "::1");
  EXPECT_EQ(At("[fe80::1%eth0]:9092").host, "fe80::1%eth0");
  for (const char* address : {"localhost:80", "127.0.0.1:9092", "[::1]:9092", "[::]:0"}) {
    EXPECT_EQ(At(address).ToString(), address);
  }
}

TEST(HostPortTest, WhatIsNoHostAndPortIsRefusedByName) {
  for (const char* address :
       {"", "localhost", ":80", "localhost:", "localhost:x", "a:-1", "a:65536", "::1:80", "[::1]",
        "[a]:80", "a b:80", "a\r\nb:80", "http://a:80"}) {
    EXPECT_THAT(HostPort::Parse(address), StatusIs(absl::StatusCode::kInvalidArgument)) << address;
    EXPECT_THAT(HostPort::ParseListener(address), StatusIs(absl::StatusCode::kInvalidArgument))
        << address;
  }
  EXPECT_THAT(HostPort::Parse("::1:80"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("::1:80")));
}

TEST(HostPortTest, PortZeroIsForListenersOnly) {
  EXPECT_THAT(HostPort::Parse("a:0"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(At("a:0").port, 0);
}

TEST(HostPortTest, AHostAloneMayHaveBracketsOrNot) {
  for (const char* host : {"::1", "[::1]"}) {
    ASSERT_OK_AND_ASSIGN(const HostPort parsed, HostPort::FromHost(host, 8000));
    EXPECT_EQ(parsed.ToString(), "[::1]:8000");
  }
  ASSERT_OK_AND_ASSIGN(const HostPort name, HostPort::FromHost("localhost", 8000));
  EXPECT_EQ(name.ToString(), "localhost:8000");
  for (const char* host : {"", "a:1", "127.0.0.1:80", "[a]", "a b", "::1]", "http://a"}) {
    EXPECT_THAT(HostPort::FromHost(host, 8000), StatusIs(absl::StatusCode::kInvalidArgument))
        << host;
  }
}

TEST(HostPortTest, ALocalClientReachesAWildcardListenerOnLoopback) {
  EXPECT_EQ(At("0.0.0.0:80").ForLocalClient().ToString(), "127.0.0.1:80");
  EXPECT_EQ(At("[::]:80").ForLocalClient().ToString(), "[::1]:80");
  EXPECT_EQ(At("[0:0:0:0:0:0:0:0]:80").ForLocalClient().ToString(), "[::1]:80");
  EXPECT_EQ(At("[::1]:80").ForLocalClient().ToString(), "[::1]:80");
  EXPECT_EQ(At("10.0.0.1:80").ForLocalClient().ToString(), "10.0.0.1:80");
}

TEST(HostPortTest, LoopbackIsRecognised) {
  for (const char* address : {"localhost:1", "127.0.0.1:1", "127.9.9.9:1", "[::1]:1"}) {
    EXPECT_TRUE(At(address).IsLoopback()) << address;
  }
  for (const char* address : {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "127.example.com:1"}) {
    EXPECT_FALSE(At(address).IsLoopback()) << address;
  }
}

}  // namespace
}  // namespace fedumm
