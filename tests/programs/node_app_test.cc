#include "programs/node_app.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/testing/status_matchers.h"

namespace fedumm::programs {
namespace {

using ::fedumm::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::Not;

absl::Status Answer(NodeApp& app, ConfigRecord run_config) {
  Message message;
  message.metadata.message_type = "train";
  message.content = RecordDict();
  Context context{.node_config = {{"partition-id", int64_t{0}}, {"num-partitions", int64_t{2}}},
                  .run_config = std::move(run_config)};
  return app.AsClientApp().Handle(message, context).status();
}

TEST(NodeApp, APathThatTheServerNamesIsNotOpened) {
  NodeApp app({{"model.checkpoint", "no/such/model"}, {"data.folder", "no/such/data"}},
              [](const std::string&) {});
  std::vector<std::string> errors;
  for (const char* path : {"/etc", "/no/such/folder", "../..", "configs/tiny"}) {
    const absl::Status status =
        Answer(app, {{"model.checkpoint", path}, {"data.folder", path}, {"model.folder", path}});
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition, Not(HasSubstr(path))));
    EXPECT_THAT(status.message(), Not(HasSubstr("no/such")));
    errors.emplace_back(status.message());
  }
  // The error does not tell whether the path exists.
  for (const std::string& error : errors) EXPECT_EQ(error, errors.front());
}

TEST(NodeApp, AMalformedFileOfTheNodeIsNotNamedToTheServer) {
  const std::string folder = ::testing::TempDir() + "/malformed-model";
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/config.json") << "{";
  NodeApp app({{"model.checkpoint", folder}, {"data.folder", folder}}, [](const std::string&) {});
  EXPECT_THAT(Answer(app, {}),
              StatusIs(absl::StatusCode::kFailedPrecondition, Not(HasSubstr("malformed-model"))));
}

TEST(NodeApp, FilledInSettingsAreToldOnce) {
  std::vector<std::string> told;
  NodeApp app({{"data.folder", "no/such/data"}},
              [&](const std::string& line) { told.push_back(line); });
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(Answer(app, {{"lora.r", int64_t{2}}}).ok());
  ASSERT_EQ(told.size(), 1u);
  EXPECT_THAT(told[0], HasSubstr("train.local-steps = 10"));
  EXPECT_THAT(told[0], Not(HasSubstr("lora.r =")));
  EXPECT_FALSE(Answer(app, {{"lora.r", int64_t{4}}}).ok());
  EXPECT_EQ(told.size(), 2u) << "another run, other settings";
}

TEST(NodeApp, AWrongSettingIsNamedInTheReply) {
  NodeApp app({}, [](const std::string&) {});
  EXPECT_THAT(Answer(app, {{"lora.r", "many"}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("lora.r")));
}

}  // namespace
}  // namespace fedumm::programs
