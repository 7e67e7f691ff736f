#include "fedumm/model/world.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "fedumm/model/image.h"
#include "fedumm/model/safetensors.h"
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

// The world of rendered scenes on its own tiny checkpoint.
class ScenesWorldTest : public ::testing::Test {
 protected:
  static ConfigRecord Settings(const ConfigRecord& chosen) {
    ConfigRecord all = {{"model.checkpoint", FEDUMM_TEST_DATA "/../../configs/scenes"},
                        {"data.pictures", int64_t{120}},
                        {"data.test-pictures", int64_t{36}},
                        {"data.min-size", int64_t{1}},
                        {"evaluate.prompts-per-tag", int64_t{2}}};
    for (const auto& [key, value] : chosen) all.Set(key, value);
    const absl::StatusOr<std::vector<Setting>> table = WorldSettings("scenes");
    EXPECT_THAT(table.status(), IsOk());
    std::vector<Setting> with_lora = *table;
    for (Setting& setting : LoraSettings()) with_lora.push_back(std::move(setting));
    const absl::StatusOr<CompletedSettings> completed = CompleteSettings(with_lora, all);
    EXPECT_THAT(completed.status(), IsOk());
    return completed->values;
  }
  static std::unique_ptr<World> NewScenes(const ConfigRecord& chosen = {}) {
    absl::StatusOr<std::unique_ptr<World>> world = NewWorld(Settings(chosen));
    EXPECT_THAT(world.status(), IsOk());
    return world.ok() ? *std::move(world) : nullptr;
  }
};

TEST_F(ScenesWorldTest, ReportsGenevalsSixTagsAndTheirMean) {
  const std::unique_ptr<World> world = NewScenes();
  ASSERT_OK_AND_ASSIGN(const MetricRecord metrics, world->Evaluate(1));
  double sum = 0;
  for (const char* tag :
       {"single_object", "two_object", "counting", "colors", "position", "color_attr"}) {
    const double share = NumberOr(metrics, "draw-" + std::string(tag), -1);
    EXPECT_GE(share, 0) << tag;
    sum += share;
  }
  EXPECT_NEAR(NumberOr(metrics, "draw-overall", -1), sum / 6, 1e-9);
  EXPECT_EQ(NumberOr(metrics, "draw-num-examples", 0), 12);
  EXPECT_EQ(NumberOr(metrics, "vqa-num-examples", 0), 72);
  for (const TaskInfo& task : world->Info().tasks) {
    EXPECT_TRUE(metrics.contains(task.metric)) << task.metric;
    EXPECT_THAT(task.breakdown, ::testing::Not(::testing::IsEmpty()));
    for (const auto& [kind, metric] : task.breakdown) EXPECT_TRUE(metrics.contains(metric)) << kind;
  }
}

TEST_F(ScenesWorldTest, AStrideKeepsEveryTag) {
  const std::unique_ptr<World> world = NewScenes({{"evaluate.prompts-per-tag", int64_t{6}}});
  ASSERT_OK_AND_ASSIGN(const MetricRecord metrics, world->Evaluate(6));
  EXPECT_EQ(NumberOr(metrics, "draw-num-examples", 0), 6);
  const WorldInfo info = world->Info();
  for (const auto& [tag, metric] : info.tasks.back().breakdown) {
    EXPECT_TRUE(metrics.contains(metric)) << tag;
  }
}

TEST_F(ScenesWorldTest, ClientsDivideTheExamplesAndTheirLossesHaveGradients) {
  const std::unique_ptr<World> world = NewScenes();
  ASSERT_OK_AND_ASSIGN(const auto all, world->ClientTasks(0, 1));
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0]->num_examples(), 240);
  EXPECT_EQ(all[1]->num_examples(), 120);
  ASSERT_OK_AND_ASSIGN(const auto first, world->ClientTasks(0, 2));
  ASSERT_OK_AND_ASSIGN(const auto second, world->ClientTasks(1, 2));
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(first[i]->num_examples() + second[i]->num_examples(), all[i]->num_examples());
    all[i]->Seed(3);
    ASSERT_OK_AND_ASSIGN(const Batch batch, all[i]->NextBatch(4));
    ASSERT_OK_AND_ASSIGN(const at::Tensor loss, all[i]->Loss(batch));
    ASSERT_OK_AND_ASSIGN(const at::Tensor again, all[i]->Loss(batch));
    EXPECT_TRUE(std::isfinite(loss.item<double>()));
    EXPECT_EQ(loss.item<double>(), again.item<double>());
  }
}

TEST_F(ScenesWorldTest, ClientsAreJudgedOnExamplesThatTheyKeepBack) {
  const std::unique_ptr<World> world = NewScenes({{"data.client-test-share", 0.2}});
  ASSERT_OK_AND_ASSIGN(const auto tasks, world->ClientTasks(0, 1));
  for (const auto& [task, kept] : {std::pair(tasks[0].get(), 48), std::pair(tasks[1].get(), 24)}) {
    ASSERT_OK_AND_ASSIGN(const MetricRecord metrics, task->Evaluate());
    EXPECT_EQ(NumberOr(metrics, task->name() + "-num-examples", 0), kept);
  }
}

TEST_F(ScenesWorldTest, SamplesHaveAnswersOfSeveralWordsAndDrawings) {
  const std::unique_ptr<World> world = NewScenes();
  ASSERT_OK_AND_ASSIGN(const std::vector<Sample> samples, world->Samples());
  EXPECT_EQ(samples.size(), 24u);
  bool several_words = false;
  for (const Sample& sample : samples) {
    several_words |= sample.truth.find(' ') != std::string::npos;
    EXPECT_EQ(sample.answer_png.empty(), sample.task == "vqa");
  }
  EXPECT_TRUE(several_words);
}

TEST_F(ScenesWorldTest, DrawsAPromptOfItsVocabularyAndRefusesAnother) {
  const std::unique_ptr<World> world = NewScenes();
  ASSERT_OK_AND_ASSIGN(const std::string png,
                       world->Generate({.prompt = "a photo of two red circles", .steps = 1}));
  EXPECT_THAT(DecodePng(png).status(), IsOk());
  EXPECT_THAT(world->Generate({.prompt = "a photo of a JACKET"}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("JACKET")));
}

TEST_F(ScenesWorldTest, TheShippedWeightsWereMadeByTheRecipeBesideThem) {
  const std::string folder = FEDUMM_TEST_DATA "/../../configs/scenes";
  ASSERT_OK_AND_ASSIGN(const auto file, SafetensorsFile::Open(folder + "/model.safetensors"));
  ASSERT_OK_AND_ASSIGN(const std::string recipe, ReadFile(folder + "/pretrain.toml"));
  EXPECT_EQ(file.metadata().at("recipe"), recipe);
  EXPECT_LE(std::filesystem::file_size(folder + "/model.safetensors"), 4'000'000u);
}

}  // namespace
}  // namespace fedumm::model
