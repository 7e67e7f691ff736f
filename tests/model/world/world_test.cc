#include "fedumm/model/world.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "fedumm/model/image.h"
#include "model/demo/small_easy_vqa.h"
#include "testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

class OneThread : public ::testing::Environment {
  void SetUp() override { at::set_num_threads(1); }
};
[[maybe_unused]] const auto* const kOneThread = ::testing::AddGlobalTestEnvironment(new OneThread);

void WriteSplit(const std::string& folder, const EasyVqaSplit& split) {
  std::filesystem::create_directories(folder + "/images");
  for (int64_t i = 0; i < split.num_pictures(); ++i) {
    const Picture picture = split.picture(i);
    ASSERT_THAT(WritePng(folder + "/images/" + std::to_string(i) + ".png",
                         {.width = kPictureSize,
                          .height = kPictureSize,
                          .pixels = {picture.begin(), picture.end()}}),
                IsOk());
  }
  nlohmann::json questions = nlohmann::json::array();
  for (const Question& question : split.questions) {
    questions.push_back({question.text, question.answer, question.picture});
  }
  std::ofstream(folder + "/questions.json") << questions;
}

TEST(WorldKinds, EachKindHasATableWithItsOwnName) {
  ASSERT_FALSE(WorldKinds().empty());
  for (const std::string& kind : WorldKinds()) {
    ASSERT_OK_AND_ASSIGN(const std::vector<Setting> table, WorldSettings(kind));
    const Setting* setting = FindSetting(table, "world.kind");
    ASSERT_NE(setting, nullptr);
    EXPECT_EQ(std::get<std::string>(setting->default_value), kind);
    EXPECT_EQ(setting->choices, WorldKinds());
    for (const Setting& one : table) {
      EXPECT_FALSE(one.help.empty()) << one.key;
      EXPECT_THAT(CheckSetting(one, one.default_value).status(), IsOk()) << one.key;
    }
  }
}

TEST(WorldKinds, AnUnknownKindIsNamedWithThoseThatThereAre) {
  EXPECT_THAT(WorldSettings("moon").status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("moon"), HasSubstr(WorldKinds().front()))));
  EXPECT_THAT(NewWorld({{"world.kind", "moon"}}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(PretrainWorld({}, [](const PretrainStep&) {}),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(LocalSettings, AreThoseThatNameFiles) {
  for (const char* key : {"model.checkpoint", "data.folder", "data.question-file", "x.y.file",
                          "folder", "a.cache-folder"}) {
    EXPECT_TRUE(IsLocalSetting(key)) << key;
  }
  for (const char* key : {"lora.r", "data.files", "data.folder.depth", "train.profile",
                          "world.kind", "data.filefolder-size"}) {
    EXPECT_FALSE(IsLocalSetting(key)) << key;
  }
}

// A small world on the tiny checkpoint.
class EasyVqaWorldTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const std::string folder = ::testing::TempDir() + "world_test";
    std::filesystem::remove_all(folder);
    WriteSplit(folder + "/train", SmallSplit(0));
    WriteSplit(folder + "/test", SmallSplit(4));
    const absl::StatusOr<std::vector<Setting>> table = WorldSettings("easy-vqa");
    ASSERT_THAT(table.status(), IsOk());
    std::vector<Setting> with_lora = *table;
    for (Setting& setting : LoraSettings()) with_lora.push_back(std::move(setting));
    const absl::StatusOr<CompletedSettings> completed =
        CompleteSettings(with_lora, {{"model.checkpoint", FEDUMM_TEST_DATA "/../../configs/tiny"},
                                     {"data.folder", folder},
                                     {"data.min-size", int64_t{1}},
                                     {"evaluate.drawings-per-prompt", int64_t{1}}});
    ASSERT_THAT(completed.status(), IsOk());
    settings_ = new ConfigRecord(completed->values);
    absl::StatusOr<std::unique_ptr<World>> world = NewWorld(*settings_);
    ASSERT_THAT(world.status(), IsOk());
    world_ = world->release();
  }
  static void TearDownTestSuite() {
    delete world_;
    delete settings_;
  }

  static ConfigRecord* settings_;
  static World* world_;
};
ConfigRecord* EasyVqaWorldTest::settings_ = nullptr;
World* EasyVqaWorldTest::world_ = nullptr;

TEST_F(EasyVqaWorldTest, OneClientHoldsAllExamplesAndSeveralDivideThem) {
  const auto count = [&](int64_t partition, int64_t partitions) {
    std::vector<int64_t> counts;
    const auto tasks = world_->ClientTasks(partition, partitions);
    EXPECT_THAT(tasks.status(), IsOk());
    for (const auto& task : *tasks) counts.push_back(task->num_examples());
    return counts;
  };
  const std::vector<int64_t> all = count(0, 1);
  const std::vector<int64_t> first = count(0, 2);
  const std::vector<int64_t> second = count(1, 2);
  const WorldInfo info = world_->Info();
  ASSERT_EQ(all.size(), info.tasks.size());
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_GT(first[i], 0);
    EXPECT_GT(second[i], 0);
    EXPECT_EQ(first[i] + second[i], all[i]);
  }
}

TEST_F(EasyVqaWorldTest, ClientsAreJudgedOnExamplesThatTheyKeepBack) {
  ConfigRecord settings = *settings_;
  settings.Set("data.client-test-share", 0.25);
  ASSERT_OK_AND_ASSIGN(const auto world, NewWorld(settings));
  for (int64_t client = 0; client < 2; ++client) {
    ASSERT_OK_AND_ASSIGN(const auto all, world_->ClientTasks(client, 2));
    ASSERT_OK_AND_ASSIGN(const auto tasks, world->ClientTasks(client, 2));
    for (size_t i = 0; i < tasks.size(); ++i) {
      const int64_t kept = all[i]->num_examples() - tasks[i]->num_examples();
      EXPECT_EQ(kept, std::lround(0.25 * static_cast<double>(all[i]->num_examples())));
      ASSERT_OK_AND_ASSIGN(const MetricRecord metrics, tasks[i]->Evaluate());
      EXPECT_EQ(std::get<int64_t>(*metrics.Find(tasks[i]->name() + "-num-examples")), kept);
    }
  }
}

TEST_F(EasyVqaWorldTest, DescribeCountsWhatTheTasksTrainOn) {
  ASSERT_OK_AND_ASSIGN(const auto tasks, world_->ClientTasks(1, 2));
  ASSERT_OK_AND_ASSIGN(const std::vector<Holding> holdings, world_->Describe(1, 2));
  ASSERT_EQ(holdings.size(), tasks.size());
  for (size_t i = 0; i < tasks.size(); ++i) {
    EXPECT_EQ(holdings[i].task, tasks[i]->name());
    int64_t total = 0;
    for (const auto& [label, count] : holdings[i].counts) total += count;
    EXPECT_EQ(total, tasks[i]->num_examples());
  }
}

TEST_F(EasyVqaWorldTest, APartitionThatDoesNotExistIsRefused) {
  for (const auto& [partition, partitions] : {std::pair(-1, 2), std::pair(2, 2), std::pair(0, 0)}) {
    EXPECT_THAT(world_->ClientTasks(partition, partitions).status(),
                StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(world_->Describe(partition, partitions).status(),
                StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

TEST_F(EasyVqaWorldTest, EvaluateGivesTheMetricsThatInfoNames) {
  ASSERT_OK_AND_ASSIGN(const MetricRecord metrics, world_->Evaluate(4));
  for (const TaskInfo& task : world_->Info().tasks) {
    for (const std::string& key : {task.metric, task.part_metric}) {
      const double share = NumberOr(metrics, key, -1);
      EXPECT_GE(share, 0) << key;
      EXPECT_LE(share, 1) << key;
    }
    EXPECT_GT(NumberOr(metrics, task.count_metric, 0), 0);
  }
}

TEST_F(EasyVqaWorldTest, ACloneIsTheSameWorldWithAModelOfItsOwn) {
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<World> clone, world_->Clone());
  EXPECT_EQ(clone->ModelBytes(), world_->ModelBytes());
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<LoraAdapter> adapter, NewAdapter(*world_, *settings_));
  // The clone's linears are free.
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<LoraAdapter> other, NewAdapter(*clone, *settings_));
  EXPECT_EQ(adapter->ToArrays(), other->ToArrays()) << "equal seeds";
  EXPECT_THAT(NewAdapter(*clone, *settings_).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(EasyVqaWorldTest, SamplesAreTheSameInputsInEveryCall) {
  ASSERT_OK_AND_ASSIGN(const std::vector<Sample> first, world_->Samples());
  ASSERT_OK_AND_ASSIGN(const std::vector<Sample> again, world_->Samples());
  ASSERT_FALSE(first.empty());
  ASSERT_EQ(first.size(), again.size());
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(first[i].prompt, again[i].prompt);
    EXPECT_EQ(first[i].png, again[i].png);
    EXPECT_FALSE(first[i].answer.empty() && first[i].answer_png.empty());
  }
}

TEST_F(EasyVqaWorldTest, DrawsAPromptOrSaysWhatAPromptMustName) {
  ASSERT_OK_AND_ASSIGN(const std::string png,
                       world_->Generate({.prompt = "a red circle, please", .steps = 1}));
  EXPECT_THAT(DecodePng(png).status(), IsOk());
  EXPECT_THAT(
      world_->Generate({.prompt = "a purple circle"}).status(),
      StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("purple"), HasSubstr("teal"))));
}

TEST_F(EasyVqaWorldTest, MissingPicturesAreNamedWithWhatToDo) {
  ConfigRecord settings = *settings_;
  settings.Set("data.folder", "no/such/folder");
  EXPECT_THAT(NewWorld(settings).status(),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(HasSubstr("no/such/folder"), HasSubstr("scripts/setup.sh"))));
}

}  // namespace
}  // namespace fedumm::model
