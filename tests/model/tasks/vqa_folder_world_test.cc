// The world "vqa-folder" on a random checkpoint in the released layout and on configs/tiny.
#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <variant>

#include "fedumm/model/backbone.h"
#include "fedumm/model/checkpoint.h"
#include "fedumm/model/client.h"
#include "fedumm/model/latents.h"
#include "fedumm/model/lora.h"
#include "fedumm/model/world.h"
#include "fedumm/simulation.h"
#include "fedumm/strategies.h"
#include "tests/model/data/test_files.h"
#include "tests/model/tasks/small_qwen.h"
#include "tests/model/tasks/small_vqa_folder.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::ReadTestData;
using ::fedumm::testing::ScratchPath;
using ::fedumm::testing::StatusIs;
using ::testing::AllOf;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Le;

const std::string kTiny = std::string(FEDUMM_TEST_DATA) + "/../../configs/tiny";

class VqaFolderWorldTest : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteSmallVqaFolder(folder_);
    given_.Set("data.folder", folder_);
    given_.Set("data.captions-file", "captions_{subset}.json");
    given_.Set("data.min-size", int64_t{1});
    given_.Set("model.checkpoint", kTiny);
  }

  // A random model of Qwen2.5-VL's shape in two or more shards, with a chat tokenizer.
  std::string ReleasedCheckpoint() {
    const std::string checkpoint = folder_ + "/checkpoint";
    const BackboneConfig config = SmallQwenConfig();
    EXPECT_THAT(SaveStateDict(UnifiedModel::InitialState(config, 1), checkpoint, 60'000), IsOk());
    EXPECT_TRUE(std::filesystem::exists(checkpoint + "/model.safetensors.index.json"));
    std::ofstream(checkpoint + "/config.json") << config.ToJson();
    std::ofstream(checkpoint + "/tokenizer.json") << ReadTestData("tokenizer/tiny_tokenizer.json");
    return checkpoint;
  }

  ConfigRecord Settings(const char* kind = "vqa-folder") const {
    return CompleteSettings(WorldSettings(kind).value(), given_)->values;
  }

  const std::string folder_ = ScratchPath("vqa");
  ConfigRecord given_;
};

double Share(const MetricRecord& metrics, const char* key) {
  const MetricValue* value = metrics.Find(key);
  EXPECT_NE(value, nullptr) << key;
  return value == nullptr ? NAN : std::get<double>(*value);
}

TEST_F(VqaFolderWorldTest, AReleasedCheckpointAnswersWithItsChatTemplate) {
  given_.Set("model.checkpoint", ReleasedCheckpoint());
  ASSERT_OK_AND_ASSIGN(const auto world, NewWorld(Settings()));
  EXPECT_EQ(world->Info().tasks.size(), 1);
  EXPECT_GT(world->ModelBytes(), 0);
  ASSERT_OK_AND_ASSIGN(const MetricRecord metrics, world->Evaluate(1));
  EXPECT_THAT(Share(metrics, "vqa-accuracy"), AllOf(Ge(0), Le(1)));
  EXPECT_EQ(std::get<int64_t>(*metrics.Find("vqa-num-examples")), 12);
  ASSERT_OK_AND_ASSIGN(const auto samples, world->Samples());
  ASSERT_EQ(samples.size(), 12);
  EXPECT_EQ(samples[0].truth, "black");
  EXPECT_THAT(DecodePng(samples[0].png), IsOk());
  EXPECT_THAT(world->Generate({.prompt = "a cat"}),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("DiT")));
}

TEST_F(VqaFolderWorldTest, ClientsSharesAreDisjointAndComplete) {
  ASSERT_OK_AND_ASSIGN(const auto world, NewWorld(Settings()));
  int64_t total = 0;
  for (int64_t i = 0; i < 3; ++i) {
    ASSERT_OK_AND_ASSIGN(const auto tasks, world->ClientTasks(i, 3));
    ASSERT_OK_AND_ASSIGN(const auto holdings, world->Describe(i, 3));
    int64_t held = 0;
    for (const auto& [label, count] : holdings[0].counts) held += count;
    EXPECT_EQ(held, tasks[0]->num_examples());
    total += held;
  }
  EXPECT_EQ(total, 12);
  EXPECT_THAT(world->ClientTasks(3, 3), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(VqaFolderWorldTest, ClientsAreJudgedOnExamplesThatTheyKeepBack) {
  given_.Set("train.tasks", "vqa,draw");
  given_.Set("data.client-test-share", 0.3);
  ASSERT_OK_AND_ASSIGN(const auto world, NewWorld(Settings()));
  for (size_t task = 0; task < 2; ++task) {
    int64_t trained = 0, judged = 0;
    for (int64_t client = 0; client < 2; ++client) {
      ASSERT_OK_AND_ASSIGN(const auto tasks, world->ClientTasks(client, 2));
      ASSERT_OK_AND_ASSIGN(const MetricRecord metrics, tasks[task]->Evaluate());
      const std::string count = tasks[task]->name() + "-num-examples";
      const int64_t own = std::get<int64_t>(*metrics.Find(count));
      const int64_t all = tasks[task]->num_examples() + own;
      EXPECT_EQ(own, all < 2 ? 0 : std::max<int64_t>(1, std::lround(0.3 * double(all))));
      ASSERT_OK_AND_ASSIGN(const auto again, world->ClientTasks(client, 2));
      EXPECT_EQ(again[task]->Evaluate().value(), metrics);
      trained += tasks[task]->num_examples();
      judged += own;
    }
    EXPECT_EQ(trained + judged, task == 0 ? 12 : 6);
    EXPECT_GT(judged, 0);
  }
  // The server's examples are those of the held-out subset.
  ASSERT_OK_AND_ASSIGN(const MetricRecord metrics, world->Evaluate(1));
  EXPECT_EQ(std::get<int64_t>(*metrics.Find("vqa-num-examples")), 12);
}

TEST_F(VqaFolderWorldTest, AClientThatKeepsNothingBackHasNoAccuracy) {
  given_.Set("data.client-test-share", 0.3);
  given_.Set("data.partitioner", "iid");
  ASSERT_OK_AND_ASSIGN(const auto world, NewWorld(Settings()));
  ASSERT_OK_AND_ASSIGN(const auto tasks, world->ClientTasks(0, 12));
  EXPECT_EQ(tasks[0]->num_examples(), 1);
  EXPECT_EQ(tasks[0]->Evaluate().value(), (MetricRecord{{"vqa-num-examples", int64_t{0}}}));
}

TEST_F(VqaFolderWorldTest, TheBenchmarkItselfHasThePublishedNames) {
  given_.Set("data.partitioner", "nvflare");
  given_.Set("data.alpha", 0.0);
  ASSERT_OK_AND_ASSIGN(const std::vector<Setting> table, WorldSettings("vqa-v2"));
  for (const char* key : {"data.train-subset", "data.test-subset", "data.questions-file",
                          "data.annotations-file", "data.picture-file", "data.label"}) {
    EXPECT_EQ(FindSetting(table, key), nullptr) << key;
  }
  ASSERT_OK_AND_ASSIGN(const auto world, NewWorld(Settings("vqa-v2")));
  EXPECT_THAT(world->Info().notes[1], HasSubstr("a part of VQA v2, which has 443757"));
  int64_t total = 0;
  for (int64_t client = 0; client < 5; ++client) {  // in turn: 12 questions to 5 clients
    ASSERT_OK_AND_ASSIGN(const auto tasks, world->ClientTasks(client, 5));
    EXPECT_EQ(tasks[0]->num_examples(), client < 2 ? 3 : 2);
    total += tasks[0]->num_examples();
  }
  EXPECT_EQ(total, 12);
}

// A server that leaves a task's settings out gets what the table says.
TEST_F(VqaFolderWorldTest, TasksHaveTheDefaultsOfTheTable) {
  given_.Set("train.tasks", "vqa,draw");
  ASSERT_OK_AND_ASSIGN(const auto world, NewWorld(Settings()));
  ASSERT_OK_AND_ASSIGN(const auto tasks, world->ClientTasks(0, 1));
  const WorldInfo info = world->Info();
  ASSERT_EQ(tasks.size(), 2);
  for (size_t i = 0; i < tasks.size(); ++i) {
    const TaskDefaults defaults = tasks[i]->defaults();
    EXPECT_EQ(info.tasks[i].defaults.batch_size, defaults.batch_size);
    EXPECT_EQ(info.tasks[i].defaults.loss_weight, defaults.loss_weight);
    for (const Setting& setting : TaskSettings(tasks[i]->name(), defaults)) {
      EXPECT_EQ(*Settings().Find(setting.key), setting.default_value) << setting.key;
    }
  }
}

TEST_F(VqaFolderWorldTest, DrawingWithoutACodecOrCaptionsIsRefusedWithTheReason) {
  given_.Set("train.tasks", "vqa,draw");
  given_.Set("model.checkpoint", ReleasedCheckpoint());
  EXPECT_THAT(NewWorld(Settings()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'draw' needs a checkpoint")));
  given_.Set("model.checkpoint", kTiny);
  given_.Set("data.captions-file", "");
  EXPECT_THAT(NewWorld(Settings()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("data.captions-file")));
}

TEST_F(VqaFolderWorldTest, MissingPartsAreNamed) {
  given_.Set("data.folder", "");
  EXPECT_THAT(NewWorld(Settings()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("data.folder")));
  given_.Set("data.folder", folder_ + "/none");
  EXPECT_THAT(NewWorld(Settings()), StatusIs(absl::StatusCode::kNotFound, HasSubstr("/none/v2_")));
  given_.Set("data.folder", folder_);
  given_.Set("model.checkpoint", folder_);
  EXPECT_THAT(NewWorld(Settings()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("config.json")));
}

TEST_F(VqaFolderWorldTest, ACloneHasAModelOfItsOwn) {
  ASSERT_OK_AND_ASSIGN(const auto world, NewWorld(Settings()));
  ASSERT_OK_AND_ASSIGN(const auto clone, world->Clone());
  ASSERT_OK_AND_ASSIGN(const MetricRecord before, clone->Evaluate(1));
  LoraConfig lora;
  lora.target_modules.pattern = R"(model\.layers\..*)";
  lora.init_lora_weights = LoraInit::kRandom;
  lora.lora_alpha = 1000;
  ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Attach(world->Linears(), lora, 1));
  EXPECT_EQ(clone->Evaluate(1).value(), before);
}

TEST_F(VqaFolderWorldTest, TheTinyCheckpointAlsoDrawsFromCaptions) {
  given_.Set("train.tasks", "vqa,draw");
  ASSERT_OK_AND_ASSIGN(const auto world, NewWorld(Settings()));
  LoraConfig lora;
  lora.target_modules.pattern = R"(model\.(layers|dit)\..*)";
  ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Attach(world->Linears(), lora, 1));
  ASSERT_OK_AND_ASSIGN(const auto tasks, world->ClientTasks(0, 1));
  ASSERT_EQ(tasks.size(), 2);
  Task& draw = *tasks[1];
  EXPECT_EQ(draw.name(), "draw");
  EXPECT_EQ(draw.num_examples(), 6);
  draw.Seed(1);
  ASSERT_OK_AND_ASSIGN(const Batch batch, draw.NextBatch(5));
  ASSERT_OK_AND_ASSIGN(const at::Tensor loss, draw.Loss(batch));
  EXPECT_TRUE(std::isfinite(loss.item<double>()));
  loss.backward();
  EXPECT_TRUE(draw.Loss(batch)->equal(loss));
  ASSERT_OK_AND_ASSIGN(const MetricRecord metrics, world->Evaluate(1));
  EXPECT_THAT(Share(metrics, "draw-accuracy"), AllOf(Ge(0), Le(1)));
  EXPECT_EQ(std::get<int64_t>(*metrics.Find("draw-num-examples")), 6);
  EXPECT_EQ(world->Evaluate(1).value(), metrics);
  ASSERT_OK_AND_ASSIGN(const std::string png,
                       world->Generate({.prompt = "a red circle", .steps = 2}));
  EXPECT_EQ(DecodePng(png)->width, 64);
  EXPECT_THAT(world->Generate({.prompt = "a Zebra", .steps = 2}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("Zebra")));
}

// Each stored latent is filled with a number of its picture's; the subsets' pictures have equal
// ids.
TEST_F(VqaFolderWorldTest, DrawingTrainsFromStoredLatents) {
  const std::string latents = folder_ + "/latents";
  const auto store = [&](std::vector<int64_t> shape) {
    std::filesystem::remove_all(latents);
    LatentWriter writer = LatentWriter::Open(latents, "eva").value();
    const auto add = [&](const std::string& name, int value) {
      const at::Tensor filled = at::full(shape, value, at::kBFloat16);
      EXPECT_THAT(writer.Add(name, SafetensorsDType::kBF16, shape,
                             {static_cast<const char*>(filled.const_data_ptr()), filled.nbytes()}),
                  IsOk());
    };
    for (int id = 100; id < 106; ++id) {
      add("train2014/" + VqaImageName("train2014", id), id);
      add("val2014/" + VqaImageName("val2014", id), -id);
      add(VqaImageName("train2014", id), 0);  // of another folder: the longer name counts
    }
    EXPECT_THAT(writer.Flush(), IsOk());
  };
  store({16, 8, 8});
  given_.Set("train.tasks", "draw");
  given_.Set("data.latents-folder", latents);
  ASSERT_OK_AND_ASSIGN(const auto world, NewWorld(Settings()));
  ASSERT_OK_AND_ASSIGN(const auto tasks, world->ClientTasks(0, 1));
  ASSERT_EQ(tasks.size(), 1);
  tasks[0]->Seed(1);
  ASSERT_OK_AND_ASSIGN(const Batch batch, tasks[0]->NextBatch(6));
  std::vector<float> seen;
  const at::Tensor loaded = batch.at("latents");
  EXPECT_EQ(loaded.scalar_type(), at::kFloat);
  ASSERT_EQ(loaded.sizes(), (std::vector<int64_t>{6, 16, 8, 8}));
  for (int64_t i = 0; i < 6; ++i) {
    seen.push_back(loaded[i][0][0][0].item<float>());
    EXPECT_TRUE((loaded[i] == seen.back()).all().item<bool>());
  }
  EXPECT_THAT(seen, ::testing::UnorderedElementsAre(100, 101, 102, 103, 104, 105));
  ASSERT_OK_AND_ASSIGN(const at::Tensor loss, tasks[0]->Loss(batch));
  EXPECT_TRUE(std::isfinite(loss.item<double>()));
  ASSERT_OK_AND_ASSIGN(const MetricRecord metrics, world->Evaluate(1));
  EXPECT_THAT(Share(metrics, "draw-accuracy"), AllOf(Ge(0), Le(1)));
  store({16, 4, 4});
  EXPECT_THAT(NewWorld(Settings()), StatusIs(absl::StatusCode::kInvalidArgument,
                                             HasSubstr("the model draws [16, 8, 8]")));
}

TEST_F(VqaFolderWorldTest, ClientsHaveTheTasksThatTheListGivesThem) {
  given_.Set("train.tasks", "vqa,draw");
  given_.Set("data.client-tasks", "vqa,draw,all");
  given_.Set("data.partitioner", "iid");
  given_.Set("data.caption-label", "question");
  ASSERT_OK_AND_ASSIGN(const auto world, NewWorld(Settings()));
  std::map<std::string, int64_t> examples;
  std::vector<std::string> names;
  for (int64_t client = 0; client < 4; ++client) {
    ASSERT_OK_AND_ASSIGN(const auto tasks, world->ClientTasks(client, 4));
    ASSERT_OK_AND_ASSIGN(const auto holdings, world->Describe(client, 4));
    ASSERT_EQ(tasks.size(), holdings.size());
    std::string& name = names.emplace_back();
    for (size_t i = 0; i < tasks.size(); ++i) {
      name += tasks[i]->name() + ";";
      EXPECT_EQ(holdings[i].task, tasks[i]->name());
      examples[tasks[i]->name()] += tasks[i]->num_examples();
      // Captions are dealt by the question about their picture: what its colour is.
      EXPECT_EQ(holdings[i].counts.front().first, "black");
    }
  }
  EXPECT_THAT(names, ::testing::ElementsAre("vqa;", "draw;", "vqa;draw;", "vqa;"));
  EXPECT_EQ(examples["vqa"], 12);
  EXPECT_EQ(examples["draw"], 6);
  given_.Set("data.client-tasks", "vqa,paint");
  ASSERT_OK_AND_ASSIGN(const auto wrong, NewWorld(Settings()));
  EXPECT_THAT(wrong->ClientTasks(0, 2),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("paint")));
}

TEST_F(VqaFolderWorldTest, TheMemoryOfAStepIsPlannedAndChangesNoBit) {
  std::vector<ArrayRecord> trained;
  for (const bool planned : {false, true}) {
    ASSERT_OK_AND_ASSIGN(const auto world, NewWorld(Settings()));
    LoraConfig lora;
    lora.lora_dropout = 0.1;
    lora.target_modules.names = {"q_proj", "v_proj", "to_q"};
    ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Attach(world->Linears(), lora, 1));
    std::vector<std::string> lines;
    const ClientApp app = NewLoraClient(
        *adapter, [&](int64_t partition, int64_t of) { return world->ClientTasks(partition, of); },
        {.model = planned ? world->Model() : nullptr,
         .tell = [&](const std::string& line) { lines.push_back(line); }});
    const ConfigRecord run = {{"train.local-steps", int64_t{2}}, {"train.batch-size", int64_t{2}}};
    ASSERT_OK_AND_ASSIGN(const auto grid, NewSimulation(app, {.num_nodes = 2, .run_config = run}));
    FedAvg strategy({.fraction_evaluate = 0});
    ASSERT_OK_AND_ASSIGN(const auto result,
                         strategy.Start(*grid, adapter->ToArrays(), {.num_rounds = 1}));
    trained.push_back(result.arrays);
    EXPECT_EQ(lines.size(), planned ? 1 : 0);
    if (planned) {
      EXPECT_THAT(lines[0], HasSubstr("memory of a training step: weights "));
    }
  }
  EXPECT_EQ(trained[0], trained[1]);
}

TEST_F(VqaFolderWorldTest, AShortFederationLearnsTheAnswers) {
  ASSERT_OK_AND_ASSIGN(const auto world, NewWorld(Settings()));
  LoraConfig lora;
  lora.target_modules.pattern = R"(model\.layers\..*)";
  ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Attach(world->Linears(), lora, 1));
  const ClientApp app = NewLoraClient(*adapter, [&](int64_t partition_id, int64_t num_partitions) {
    return world->ClientTasks(partition_id, num_partitions);
  });
  ConfigRecord run = {{"train.local-steps", int64_t{20}},
                      {"train.vqa-batch-size", int64_t{6}},
                      {"train.learning-rate", 5e-3}};
  ASSERT_OK_AND_ASSIGN(const auto grid, NewSimulation(app, {.num_nodes = 2, .run_config = run}));
  FedAvg strategy({.fraction_evaluate = 0});
  ASSERT_OK_AND_ASSIGN(const MetricRecord before, world->Evaluate(1));
  ASSERT_OK_AND_ASSIGN(const auto result,
                       strategy.Start(*grid, adapter->ToArrays(), {.num_rounds = 4}));
  ASSERT_THAT(adapter->FromArrays(result.arrays), IsOk());
  adapter->StopTraining();
  ASSERT_OK_AND_ASSIGN(const MetricRecord after, world->Evaluate(1));
  EXPECT_GT(Share(after, "vqa-accuracy"), Share(before, "vqa-accuracy"));
  EXPECT_GE(Share(after, "vqa-accuracy"), 0.8);
}

}  // namespace
}  // namespace fedumm::model
