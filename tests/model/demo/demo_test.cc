#include "fedumm/model/demo.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "base/file.h"
#include "base/sha256.h"
#include "fedumm/model/checkpoint.h"
#include "fedumm/model/lora.h"
#include "fedumm/model/safetensors.h"
#include "fedumm/model/train.h"
#include "model/demo/small_easy_vqa.h"
#include "model/demo/steps.h"
#include "model/demo/vocabulary.h"
#include "model/tasks/pixel_codec.h"
#include "testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::HasSubstr;

const std::string kTiny = FEDUMM_TEST_DATA "/../../configs/tiny";

BackboneConfig TinyConfig() { return *BackboneConfig::FromJson(*ReadFile(kTiny + "/config.json")); }

class OneThread : public ::testing::Environment {
  void SetUp() override { at::set_num_threads(1); }
};
[[maybe_unused]] const auto* const kOneThread = ::testing::AddGlobalTestEnvironment(new OneThread);

constexpr char kRecipe[] = R"(
seed = 3
batch_size = 4
pictures = 8
[vision]
steps = 2
warmup_steps = 1
learning_rate = 1e-3
weight_decay = 0.01
image_token_std = 0.3
[language]
steps = 2
warmup_steps = 1
learning_rate = 1e-3
weight_decay = 0.01
yes_no_share = 0.6
caption_share = 0.2
[drawing]
steps = 2
warmup_steps = 1
learning_rate = 1e-3
weight_decay = 0
prompt_dropout = 0.1
)";

// The tiny model's folder with another recipe and no weights.
std::string FolderWith(const std::string& name, const std::string& recipe) {
  const std::string folder = ::testing::TempDir() + "/demo_" + name;
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  for (const char* file : {"config.json", "tokenizer.json"}) {
    std::filesystem::copy_file(kTiny + "/" + file, folder + "/" + file);
  }
  std::ofstream(folder + "/pretrain.toml") << recipe;
  return folder;
}

TEST(VocabularyTest, PromptsAreWhatTheTokenizerSays) {
  const auto vocabulary = Vocabulary::Load(kTiny, TinyConfig());
  ASSERT_THAT(vocabulary, IsOk());
  const auto tokenizer = Tokenizer::Load(kTiny);
  ASSERT_THAT(tokenizer, IsOk());
  EXPECT_EQ(vocabulary->DrawPrompt({5, 0}),
            *tokenizer->Encode(" draw a red circle<|im_end|>[IMG]"));
  const auto sequence = vocabulary->Vqa("is there a teal shape?", "no");
  ASSERT_THAT(sequence, IsOk());
  EXPECT_EQ(sequence->ids, *tokenizer->Encode("<|vision_start|><|vision_end|> is there a teal "
                                              "shape?<|im_end|> no<|im_end|>"));
  EXPECT_EQ(sequence->ids.size(), 11);  // each word is one token
  EXPECT_EQ(vocabulary->Word(sequence->ids[sequence->num_prompt]), "no");
}

TEST(VocabularyTest, TokensBeyondTheModelsVocabularyAreRefused) {
  BackboneConfig config = TinyConfig();
  config.text.vocab_size = 100;
  EXPECT_THAT(Vocabulary::Load(kTiny, config), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(PixelCodecTest, DrawingsSurviveTheRoundTrip) {
  const EasyVqa data = SmallEasyVqa();
  const at::Tensor pictures = PicturesOver(data.train.pixels);
  const PixelCodec codec = PixelCodec::Fit(pictures, 16);
  const at::Tensor latents = codec.Encode(pictures);
  EXPECT_EQ(latents.sizes(), (at::IntArrayRef{24, 16, 8, 8}));
  const at::Tensor back = codec.Decode(latents).contiguous();
  int right = 0;
  for (int64_t i = 0; i < 24; ++i) {
    right += Detect({back.const_data_ptr<uint8_t>() + i * kPictureBytes, kPictureBytes}) ==
             data.train.concepts[i];
  }
  EXPECT_GE(right, 22);  // 16 of 192 components lose some edge
  StateDict state;
  codec.AddTo(state);
  const auto restored = PixelCodec::TakeFrom(state, 16);
  ASSERT_THAT(restored, IsOk());
  EXPECT_TRUE(state.empty());
  EXPECT_TRUE(at::equal(restored->Encode(pictures), latents));
}

TEST(PixelCodecTest, MissingOrMisshapenTensorsAreNamed) {
  StateDict state;
  EXPECT_THAT(PixelCodec::TakeFrom(state, 16),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("pixel_codec.mean")));
  PixelCodec::Fit(PicturesOver(SmallEasyVqa().train.pixels).clone(), 8).AddTo(state);
  EXPECT_THAT(PixelCodec::TakeFrom(state, 16),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("pixel_codec.basis")));
}

TEST(PretrainOptionsTest, EveryFieldIsRequired) {
  const std::string recipe = kRecipe;
  ASSERT_THAT(PretrainOptions::FromToml(recipe), IsOk());
  for (const char* field :
       {"seed", "batch_size", "pictures", "steps", "warmup_steps", "learning_rate", "weight_decay",
        "image_token_std", "yes_no_share", "caption_share", "prompt_dropout"}) {
    std::string without = recipe;
    without.replace(without.find(std::string("\n") + field), 1, "\nx");
    EXPECT_THAT(PretrainOptions::FromToml(without),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(field)));
  }
  EXPECT_THAT(PretrainOptions::FromToml("seed = "), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(PretrainTest, EqualRecipesGiveEqualFiles) {
  std::vector<std::string> files;
  for (const char* name : {"first", "second"}) {
    const std::string folder = FolderWith(name, kRecipe);
    std::string stages;
    ASSERT_THAT(Pretrain(folder,
                         [&](const PretrainProgress& progress) {
                           stages += std::string(progress.stage) + " ";
                           EXPECT_EQ(progress.step, 2);
                         }),
                IsOk());
    EXPECT_EQ(stages, "vision language drawing ");
    files.push_back(*ReadFile(folder + "/model.safetensors"));
  }
  EXPECT_TRUE(files[0] == files[1]);
  const auto file = SafetensorsFile::Parse(files[0]);
  ASSERT_THAT(file, IsOk());
  EXPECT_EQ(file->metadata().at("recipe_sha256"), Sha256Hex(kRecipe));
}

TEST(ShippedWeightsTest, CameFromTheRecipeBesideThem) {
  const auto file = SafetensorsFile::Open(kTiny + "/model.safetensors");
  ASSERT_THAT(file, IsOk());
  const std::string recipe = *ReadFile(kTiny + "/pretrain.toml");
  EXPECT_EQ(file->metadata().at("recipe"), recipe);
  EXPECT_EQ(file->metadata().at("recipe_sha256"), Sha256Hex(recipe));
  EXPECT_THAT(PretrainOptions::FromToml(recipe), IsOk());
}

class DemoWorldTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto world = DemoWorld::Load(kTiny, data_);
    ASSERT_THAT(world, IsOk());
    world_ = *std::move(world);
  }
  std::vector<int64_t> All(size_t n) {
    std::vector<int64_t> shard(n);
    for (size_t i = 0; i < n; ++i) shard[i] = i;
    return shard;
  }

  const EasyVqa data_ = SmallEasyVqa();
  std::unique_ptr<DemoWorld> world_;
};

TEST_F(DemoWorldTest, LabelsAreAnswersAndColors) {
  EXPECT_EQ(world_->vqa_labels().size(), 96);
  EXPECT_EQ(world_->vqa_labels()[0], "black");
  EXPECT_EQ(world_->draw_labels().size(), 24);
  EXPECT_EQ(world_->draw_labels()[23], "yellow");
}

TEST_F(DemoWorldTest, FrozenModelKnowsOldConcepts) {
  const auto task = world_->NewVqaTask({});
  ASSERT_THAT(task, IsOk());
  const auto metrics = (*task)->Evaluate();
  ASSERT_THAT(metrics, IsOk());
  EXPECT_GT(NumberOr(*metrics, "vqa-accuracy-old", 0), 0.8);
  EXPECT_LT(NumberOr(*metrics, "vqa-accuracy-new", 1), 0.8);
  EXPECT_EQ(NumberOr(*metrics, "vqa-num-examples", 0), 96);
  const auto draw = world_->NewDrawTask({});
  const auto drawn = (*draw)->Evaluate();
  ASSERT_THAT(drawn, IsOk());
  EXPECT_GT(NumberOr(*drawn, "draw-accuracy-old", 0), 0.8);
  EXPECT_LT(NumberOr(*drawn, "draw-accuracy-new", 1), 0.2);
  EXPECT_EQ(NumberOr(*drawn, "draw-num-examples", 0), 96);
}

TEST_F(DemoWorldTest, StrideAsksFewerQuestions) {
  const auto task = world_->NewVqaTask({}, 5);
  ASSERT_THAT(task, IsOk());
  EXPECT_EQ(NumberOr(*(*task)->Evaluate(), "vqa-num-examples", 0), 20);
}

TEST_F(DemoWorldTest, AnswersAreWords) {
  const std::vector<int64_t> questions = {0, 20};
  const auto answers = world_->Answer(questions);
  ASSERT_THAT(answers, IsOk());
  EXPECT_EQ((*answers)[0], "black");
  const std::vector<int64_t> unknown = {96};
  EXPECT_THAT(world_->Answer(unknown), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(DemoWorldTest, DrawingsDependOnTheSeedAlone) {
  const auto first = world_->Draw({.per_prompt = 1, .steps = 2, .seed = 1});
  const auto again = world_->Draw({.per_prompt = 1, .steps = 2, .seed = 1});
  const auto other = world_->Draw({.per_prompt = 1, .steps = 2, .seed = 2});
  ASSERT_THAT(first, IsOk());
  EXPECT_EQ(first->size(), 24);
  EXPECT_EQ((*first)[7].pixels, (*again)[7].pixels);
  EXPECT_NE((*first)[7].pixels, (*other)[7].pixels);
  EXPECT_THAT(world_->Draw({.steps = 0}), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(DemoWorldTest, BadShardsAreRefused) {
  EXPECT_THAT(world_->NewVqaTask({96}), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(world_->NewDrawTask({-1}), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(world_->NewVqaTask({}, 0), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT((*world_->NewVqaTask({}))->NextBatch(1),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT((*world_->NewDrawTask({1}))->NextBatch(0),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

// The loss of the task's next batch.
absl::StatusOr<at::Tensor> NextLoss(Task& task, int64_t batch_size) {
  const absl::StatusOr<Batch> batch = task.NextBatch(batch_size);
  if (!batch.ok()) return batch.status();
  return task.Loss(*batch);
}

TEST_F(DemoWorldTest, LossesDependOnTheSeedAlone) {
  for (const bool draw : {false, true}) {
    const auto task = draw ? world_->NewDrawTask(All(24)) : world_->NewVqaTask(All(96));
    ASSERT_THAT(task, IsOk());
    std::vector<double> losses;
    for (const uint64_t seed : {7, 7, 8}) {
      (*task)->Seed(seed);
      ASSERT_THAT(NextLoss(**task, 5), IsOk());
      losses.push_back(NextLoss(**task, 5)->item<double>());
    }
    EXPECT_EQ(losses[0], losses[1]);
    EXPECT_NE(losses[0], losses[2]);
  }
}

TEST_F(DemoWorldTest, BalancedBatchesShowColorsEquallyOften) {
  // One drawing of the first colour, all of the last one.
  std::vector<int64_t> shard = {0};
  const std::vector<std::string>& colors = world_->draw_labels();
  for (int64_t i = 0; i < std::ssize(colors); ++i) {
    if (colors[i] == colors.back()) shard.push_back(i);
  }
  const int64_t n = std::ssize(shard);
  ASSERT_GT(n, 2);
  for (const bool balanced : {false, true}) {
    const auto task = world_->NewDrawTask(shard, {}, balanced);
    ASSERT_THAT(task, IsOk());
    (*task)->Seed(1);
    const auto batch = (*task)->NextBatch(2 * n);
    ASSERT_THAT(batch, IsOk());
    // The prompt that occurs most often is that of the first colour, unless all occur twice.
    const at::Tensor counts = batch->at("prompt_of").bincount();
    EXPECT_EQ(counts.numel(), n);
    EXPECT_EQ(counts.max().item<int64_t>(), balanced ? n : 2);
  }
}

TEST_F(DemoWorldTest, ALossIsAFunctionOfItsBatch) {
  for (const bool draw : {false, true}) {
    const auto task = draw ? world_->NewDrawTask(All(24)) : world_->NewVqaTask(All(96));
    ASSERT_THAT(task, IsOk());
    (*task)->Seed(7);
    const auto first = (*task)->NextBatch(5);
    const auto second = (*task)->NextBatch(5);
    ASSERT_THAT(second, IsOk());
    const double loss = (*task)->Loss(*first)->item<double>();
    EXPECT_NE((*task)->Loss(*second)->item<double>(), loss);
    EXPECT_EQ((*task)->Loss(*first)->item<double>(), loss);
  }
}

TEST_F(DemoWorldTest, BalancedBatchesOfDrawingsAreASwitch) {
  // Three pictures of black, one of red: a balanced batch of two has both, always.
  const std::vector<int64_t> skewed = {0, 1, 2, 15};
  std::vector<double> losses;
  for (const bool balanced : {true, true, false}) {
    const auto task = world_->NewDrawTask(skewed, {}, balanced);
    ASSERT_THAT(task, IsOk());
    EXPECT_EQ((*task)->num_examples(), 4);
    (*task)->Seed(3);
    const auto batch = (*task)->NextBatch(2);
    ASSERT_THAT(batch, IsOk());
    const auto loss = (*task)->Loss(*batch);
    ASSERT_THAT(loss, IsOk());
    losses.push_back(loss->item<double>());
  }
  EXPECT_EQ(losses[0], losses[1]);
  EXPECT_NE(losses[0], losses[2]);
}

// The value of `key` in configs/demo.toml, without quotes and comment.
std::string DemoSetting(const std::string& key) {
  const std::string toml = "\n" + *ReadFile(kTiny + "/../demo.toml");
  const size_t begin = toml.find("\n" + key + " = ");
  if (begin == std::string::npos) return "";
  const size_t value = begin + key.size() + 4;
  std::string text = toml.substr(value, toml.find('\n', value) - value);
  if (text[0] == '\'') return text.substr(1, text.rfind('\'') - 1);
  return text.substr(0, text.find(' '));
}

TEST_F(DemoWorldTest, TheDemosAdapterIsMoreThanTenTimesSmallerThanTheModel) {
  LoraConfig config;
  config.r = std::stoll(DemoSetting("r"));
  config.target_modules.pattern = DemoSetting("target-modules");
  const auto adapter = LoraAdapter::Attach(world_->model().Linears(), config, 1);
  ASSERT_THAT(adapter, IsOk());
  int64_t adapter_bytes = 0, model_bytes = 0;
  for (const auto& [key, array] : (*adapter)->ToArrays()) adapter_bytes += array.bytes().size();
  for (const auto& [path, tensor] : world_->model().Parameters()) model_bytes += tensor->nbytes();
  EXPECT_GT(model_bytes, 10 * adapter_bytes);
  EXPECT_GT(adapter_bytes, 100'000);  // the pattern matched
}

TEST_F(DemoWorldTest, AnAdapterLearnsNewConcepts) {
  LoraConfig config;
  config.target_modules.names = {"q_proj", "k_proj", "v_proj", "o_proj"};
  config.lora_alpha = 16;
  const auto adapter = LoraAdapter::Attach(world_->model().Linears(), config, 1);
  ASSERT_THAT(adapter, IsOk());
  const auto task = world_->NewVqaTask(All(96));
  const double before = NumberOr(*(*task)->Evaluate(), "vqa-accuracy", 0);
  (*task)->Seed(1);
  const auto stats = Train((*adapter)->parameters(), [&](int64_t) { return NextLoss(**task, 16); },
                           {.steps = 60, .learning_rate = {.value = 5e-3}, .max_grad_norm = 1});
  ASSERT_THAT(stats, IsOk());
  EXPECT_GT(NumberOr(*(*task)->Evaluate(), "vqa-accuracy", 0), before + 0.05);
}

TEST(DemoWorldOnRealPicturesTest, FrozenFiguresHold) {
  const char* folder = std::getenv("FEDUMM_EASY_VQA");
  if (folder == nullptr || !std::filesystem::exists(std::string(folder) + "/train")) {
    GTEST_SKIP() << "FEDUMM_EASY_VQA is not set";
  }
  const auto data = EasyVqa::Load(folder);
  ASSERT_THAT(data, IsOk());
  const auto world = DemoWorld::Load(kTiny, *data);
  ASSERT_THAT(world, IsOk());
  const auto metrics = (*(*world)->NewVqaTask({}))->Evaluate();
  ASSERT_THAT(metrics, IsOk());
  EXPECT_GT(NumberOr(*metrics, "vqa-accuracy-old", 0), 0.96);
  EXPECT_NEAR(NumberOr(*metrics, "vqa-accuracy", 0), 0.685, 0.03);
}

}  // namespace
}  // namespace fedumm::model
