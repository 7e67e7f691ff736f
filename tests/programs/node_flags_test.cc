#include "programs/node_flags.h"

#include <gmock/gmock.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
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

// All that the flags can change, as text.
std::string Described(const SuperNodeOptions& options) {
  return absl::StrCat(options.superlink, " ", static_cast<int>(options.transport), " ",
                      options.insecure, " ", options.tls.root_certificates, " ",
                      options.tls.certificate_chain, " ", options.tls.private_key, " ",
                      options.private_key, " ", options.node_config.size(), " ",
                      options.max_retries, " ", absl::FormatDuration(options.max_wait_time));
}

TEST(NodeFlagsTest, EachFlagOfHelpChangesTheOptionsOrIsListedAsWithoutEffect) {
  const std::string file = WithFile("any", "PEM");
  const std::map<std::string, std::vector<std::string>> uses = {
      {"--superlink", {"--superlink", "127.0.0.1:1"}},
      {"--transport", {"--transport", "http"}},
      {"--grpc-rere", {"--grpc-rere"}},
      {"--grpc-adapter", {"--grpc-adapter"}},
      {"--insecure", {"--insecure"}},
      {"--root-certificates", {"--root-certificates", file}},
      {"--client-certfile", {"--client-certfile", file, "--client-keyfile", file}},
      {"--client-keyfile", {"--client-certfile", file, "--client-keyfile", file}},
      {"--auth-supernode-private-key", {"--auth-supernode-private-key", file}},
      {"--node-config", {"--node-config", "a=1"}},
      {"--max-retries", {"--max-retries", "0"}},
      {"--max-wait-time", {"--max-wait-time", "0"}},
  };
  ASSERT_OK_AND_ASSIGN(const SuperNodeOptions defaults, Parse({}));
  NodeFlags flags;
  CLI::App app;
  AddNodeFlags(app, flags);
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = option->get_name();
    if (name == "--help" || name == "-h,--help") continue;
    const auto use = uses.find(name);
    if (use == uses.end()) {
      EXPECT_THAT(option->get_group(), HasSubstr("without effect")) << name;
      continue;
    }
    ASSERT_OK_AND_ASSIGN(const SuperNodeOptions options, Parse(use->second));
    EXPECT_NE(Described(options), Described(defaults)) << name;
  }
}

TEST(NodeFlagsTest, ValuesThatCannotTakeEffectAreRefused) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"--max-retries", "-1"},
        {"--max-wait-time", "-0.5"},
        {"--max-wait-time", "nan"},
        {"--grpc-adapter", "--auth-supernode-private-key", WithFile("key2", "KEY")}}) {
    EXPECT_THAT(Parse(arguments), StatusIs(absl::StatusCode::kInvalidArgument,
                                           HasSubstr(arguments[arguments.size() - 2])));
  }
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

TEST(NodeConfig, APartThatCannotExistIsRefusedAndAnUnknownKeyIsNamed) {
  std::vector<std::string> told;
  const auto check = [&](const ConfigRecord& config) {
    return CheckNodeConfig(config, [&](const std::string& line) { told.push_back(line); });
  };
  const ConfigRecord good = {{"partition-id", int64_t{1}}, {"num-partitions", int64_t{2}}};
  EXPECT_THAT(check(good), IsOk());
  EXPECT_THAT(check({{"partition-id", int64_t{1}}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'num-partitions'")));
  EXPECT_THAT(check({{"partition-id", int64_t{2}}, {"num-partitions", int64_t{2}}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("from 0 to 1")));
  EXPECT_THAT(check({{"partition-id", int64_t{-1}}, {"num-partitions", int64_t{2}}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("partition-id")));
  EXPECT_THAT(check({{"partition-id", int64_t{0}}, {"num-partitions", int64_t{0}}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at least 1")));
  EXPECT_TRUE(told.empty());
  ConfigRecord misspelt = good;
  misspelt.Set("partition_id", int64_t{3});
  EXPECT_THAT(check(misspelt), IsOk());
  ASSERT_EQ(told.size(), 1);
  EXPECT_THAT(told[0], AllOf(HasSubstr("'partition_id' has no effect"),
                             HasSubstr("did you mean 'partition-id'?")));
}

}  // namespace
}  // namespace fedumm::programs
