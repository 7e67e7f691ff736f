#include "programs/node_flags.h"

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "base/file.h"
#include "programs/program.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::programs {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

// What a command line asks for; a mistake that the parser finds is INVALID_ARGUMENT.
absl::StatusOr<SuperNodeOptions> Parse(const std::vector<std::string>& arguments) {
  NodeFlags flags;
  CLI::App app;
  AddNodeFlags(app, flags);
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(error.what());
  }
  return ToSuperNodeOptions(flags);
}

std::string WithFile(const std::string& name, const std::string& content) {
  const std::string path = ::testing::TempDir() + "/node_flags_" + name;
  EXPECT_THAT(WriteFileAtomically(path, content), IsOk());
  return path;
}

TEST(NodeFlagsTest, NothingMeansTlsWithTheSystemsRoots) {
  ASSERT_OK_AND_ASSIGN(const SuperNodeOptions options, Parse({}));
  EXPECT_FALSE(options.insecure);
  EXPECT_EQ(options.transport, Transport::kAuto);
  EXPECT_EQ(options.tls.root_certificates, "");
  EXPECT_EQ(options.private_key, "");
}

TEST(NodeFlagsTest, FilesAreRead) {
  ASSERT_OK_AND_ASSIGN(
      const SuperNodeOptions options,
      Parse({"--root-certificates", WithFile("ca", "CA"), "--client-certfile",
             WithFile("crt", "CHAIN"), "--client-keyfile", WithFile("key", "KEY"),
             "--auth-supernode-private-key", WithFile("node", "NODE"), "--max-wait-time", "1.5"}));
  EXPECT_EQ(options.tls.root_certificates, "CA");
  EXPECT_EQ(options.tls.certificate_chain, "CHAIN");
  EXPECT_EQ(options.tls.private_key, "KEY");
  EXPECT_EQ(options.private_key, "NODE");
  EXPECT_EQ(options.max_wait_time, absl::Milliseconds(1500));
}

TEST(NodeFlagsTest, TransportHasTwoSpellings) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"--grpc-adapter"},
        {"--transport", "grpc-adapter"},
        {"--transport", "grpc-adapter", "--grpc-adapter"}}) {
    ASSERT_OK_AND_ASSIGN(const SuperNodeOptions options, Parse(arguments));
    EXPECT_EQ(options.transport, Transport::kGrpcAdapter);
  }
  ASSERT_OK_AND_ASSIGN(const SuperNodeOptions http, Parse({"--transport=http"}));
  EXPECT_EQ(http.transport, Transport::kHttp);
  ASSERT_OK_AND_ASSIGN(const SuperNodeOptions rere, Parse({"--grpc-rere"}));
  EXPECT_EQ(rere.transport, Transport::kGrpcRere);
}

TEST(NodeFlagsTest, FlarePassesWhatItPasses) {
  ASSERT_OK_AND_ASSIGN(
      const SuperNodeOptions options,
      Parse({"--insecure", "--grpc-adapter", "--superlink", "127.0.0.1:1234",
             "--clientappio-api-address", "127.0.0.1:9094",
             "--allow-runtime-dependency-installation", "--host", "127.0.0.1", "--port", "0",
             "--node-config", " client-name=\"site-1\" partition-id=0 num-partitions=2"}));
  EXPECT_EQ(options.superlink, "127.0.0.1:1234");
  EXPECT_EQ(TextOr(options.node_config, "client-name", ""), "site-1");
  EXPECT_EQ(NumberOr(options.node_config, "num-partitions", 0), 2);
}

TEST(NodeFlagsTest, ContradictionsAreNamed) {
  const std::string file = WithFile("some", "x");
  const auto refused = [](const std::vector<std::string>& arguments, const char* one,
                          const char* other) {
    EXPECT_THAT(Parse(arguments), StatusIs(absl::StatusCode::kInvalidArgument,
                                           AllOf(HasSubstr(one), HasSubstr(other))));
  };
  refused({"--grpc-rere", "--grpc-adapter"}, "grpc-rere", "grpc-adapter");
  refused({"--grpc-rere", "--transport", "http"}, "http", "grpc-rere");
  refused({"--transport", "rest"}, "--transport", "rest");
  refused({"--insecure", "--root-certificates", file}, "--insecure", "certificates");
  refused({"--client-certfile", file}, "--client-certfile", "--client-keyfile");
  refused({"--root-certificates", "/no/ca.crt"}, "--root-certificates", "/no/ca.crt");
  refused({"--auth-supernode-private-key", WithFile("empty", "")}, "private-key", "empty");
}

}  // namespace
}  // namespace fedumm::programs
