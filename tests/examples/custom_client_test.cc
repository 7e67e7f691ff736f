// Runs examples/custom_client as two processes against a SuperLink.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <string>
#include <vector>

#include "fedumm/strategies.h"
#include "fedumm/super_link.h"
#include "tests/testing/status_matchers.h"

extern char** environ;

namespace fedumm {
namespace {

class ExampleClient {
 public:
  explicit ExampleClient(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), FEDUMM_EXAMPLE_CLIENT);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    started_ = posix_spawn(&pid_, argv[0], nullptr, nullptr, argv.data(), environ) == 0;
  }
  ExampleClient(const ExampleClient&) = delete;
  ExampleClient& operator=(const ExampleClient&) = delete;
  ~ExampleClient() {
    if (started_) kill(pid_, SIGTERM);
    Wait();
  }
  bool started() const { return started_; }
  int Wait() {
    int status = -1;
    if (started_) waitpid(pid_, &status, 0);
    started_ = false;
    return status;
  }

 private:
  pid_t pid_ = 0;
  bool started_;
};

TEST(CustomClientTest, TwoNodesFitTheMeanOfTheirNumbers) {
  ASSERT_OK_AND_ASSIGN(const auto link, SuperLink::Start({.insecure = true}));
  ASSERT_OK_AND_ASSIGN(const auto grid, link->CreateRun({}));
  const std::string address = "127.0.0.1:" + std::to_string(link->fleet_port());
  ExampleClient one({address, "1", "1"});
  ExampleClient other({address, "5", "5"});
  ASSERT_TRUE(one.started() && other.started());
  FedAvg strategy({.fraction_evaluate = 0});
  ASSERT_OK_AND_ASSIGN(
      const Result result,
      strategy.Start(
          *grid, {{"mean", Array::FromDoubles({1}, {{0}})}},
          {.num_rounds = 12, .timeout = absl::Minutes(1), .wait_for_nodes = absl::Minutes(1)}));
  EXPECT_NEAR(result.arrays.Find("mean")->ToDoubles()[0], 3, 1e-3);
}

TEST(CustomClientTest, WithoutArgumentsItSaysHowItIsUsed) {
  ExampleClient client({});
  ASSERT_TRUE(client.started());
  const int status = client.Wait();
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 2);
}

}  // namespace
}  // namespace fedumm
