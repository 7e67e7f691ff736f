#include "model/tasks/answering.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <optional>
#include <variant>

#include "fedumm/model/checkpoint.h"
#include "fedumm/model/lora.h"
#include "fedumm/model/train.h"
#include "model/tasks/batch.h"
#include "tests/model/data/test_files.h"
#include "tests/model/tasks/small_qwen.h"
#include "tests/model/tasks/small_vqa_folder.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::IsOkAndHolds;
using ::fedumm::testing::ReadTestData;
using ::fedumm::testing::ScratchPath;
using ::fedumm::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

class AnsweringTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string folder = ScratchPath("vqa");
    WriteSmallVqaFolder(folder);
    ASSERT_OK_AND_ASSIGN(folder_, VqaFolder::Load({.folder = folder}));
    ASSERT_OK_AND_ASSIGN(model_,
                         UnifiedModel::Create(config_, UnifiedModel::InitialState(config_, 1)));
    ASSERT_OK_AND_ASSIGN(tokens_, Tokenize(*format_, folder_->questions(), true));
  }

  QuestionSource source() const { return {*folder_, *tokens_}; }
  std::unique_ptr<Task> NewTask(std::vector<int64_t> shard, int64_t stride = 1) {
    std::vector<int64_t> asked;
    for (int64_t i = 0; i < std::ssize(folder_->questions()); i += stride) asked.push_back(i);
    return NewAnsweringTask(*model_, *format_, options_, source(), std::move(shard), source(),
                            std::move(asked));
  }
  double LossOf(Task& task, const Batch& batch) { return task.Loss(batch).value().item<double>(); }

  const BackboneConfig config_ = SmallQwenConfig();
  std::optional<PromptFormat> format_ =
      PromptFormat::Create(SmallQwenTokenizer(), config_, "auto", "").value();
  AnsweringOptions options_ = {.processor = ProcessorFor(config_.vision, 3136, 1'003'520),
                               .threads = 2,
                               .evaluation_batch = 5};
  std::optional<VqaFolder> folder_;
  std::optional<TokenizedQuestions> tokens_;
  std::unique_ptr<UnifiedModel> model_;
};

TEST_F(AnsweringTest, APromptIsTheChatTemplateAroundPictureAndQuestion) {
  const std::vector<ChatMessage> messages = {
      {.role = "user", .text = "what color is the shape?", .images = {6}}};
  ASSERT_OK_AND_ASSIGN(const std::vector<int64_t> expected,
                       SmallQwenTokenizer().Encode(RenderChat(messages, true)));
  EXPECT_EQ(format_->Prompt(tokens_->questions[0], 6), expected);
  ASSERT_OK_AND_ASSIGN(const std::vector<int64_t> answer, format_->Answer(" dark red "));
  EXPECT_GT(answer.size(), 2);
  EXPECT_EQ(answer.back(), 642);
  EXPECT_EQ(format_->Decode(answer), "dark red");
  ASSERT_OK_AND_ASSIGN(const PromptFormat brief,
                       PromptFormat::Create(SmallQwenTokenizer(), config_, "chat", "\nBe brief."));
  EXPECT_EQ(brief.Question("who?").value(), SmallQwenTokenizer().Encode("who?\nBe brief.").value());
}

TEST_F(AnsweringTest, ABatchDoesNotDependOnTheNumberOfThreads) {
  const std::unique_ptr<Task> one = NewTask({0, 1, 2, 3, 4, 5, 6, 7});
  one->Seed(3);
  ASSERT_OK_AND_ASSIGN(const Batch first, one->NextBatch(5));
  options_.threads = 5;
  const std::unique_ptr<Task> other = NewTask({0, 1, 2, 3, 4, 5, 6, 7});
  other->Seed(3);
  ASSERT_OK_AND_ASSIGN(const Batch second, other->NextBatch(5));
  ASSERT_EQ(first.size(), second.size());
  for (const auto& [name, tensor] : first) EXPECT_TRUE(tensor.equal(second.at(name))) << name;
  EXPECT_EQ(LossOf(*one, first), LossOf(*one, first));
}

TEST_F(AnsweringTest, ABatchHoldsEveryIndexThatTheLossNeeds) {
  const std::unique_ptr<Task> task = NewTask({0, 1, 2});
  task->Seed(0);
  ASSERT_OK_AND_ASSIGN(const Batch batch, task->NextBatch(3));
  const at::Tensor& ids = batch.at("input_ids");
  EXPECT_EQ(batch.at("positions").sizes(), (std::vector<int64_t>{3, ids.size(0), ids.size(1)}));
  const at::Tensor places = ids.flatten().index_select(0, batch.at("image_rows"));
  EXPECT_TRUE((places == config_.image_token_id).all().item<bool>());
  EXPECT_EQ((ids == config_.image_token_id).sum().item<int64_t>(), places.numel());
  EXPECT_EQ(batch.at("image_from").numel(), places.numel());
  for (const auto& [name, tensor] : batch) EXPECT_TRUE(tensor.is_cpu()) << name;
  const Batch same = ToDevice(batch, model_->device());
  for (const auto& [name, tensor] : same) EXPECT_TRUE(tensor.is_same(batch.at(name))) << name;
}

TEST_F(AnsweringTest, PaddingAndNeighboursDoNotChangeARowsLoss) {
  // Rows 0 and 1 share a picture, row 2 has one of another size; their answers differ in length.
  const std::vector<int64_t> rows = {0, 1, 2};
  double sum = 0;
  int64_t count = 0;
  for (const int64_t row : rows) {
    const std::unique_ptr<Task> task = NewTask({row});
    task->Seed(0);
    ASSERT_OK_AND_ASSIGN(const Batch batch, task->NextBatch(1));
    const int64_t targets = batch.at("targets").numel();
    EXPECT_EQ(targets, static_cast<int64_t>(tokens_->answers[row].size()));
    sum += LossOf(*task, batch) * static_cast<double>(targets);
    count += targets;
  }
  const std::unique_ptr<Task> task = NewTask(rows);
  task->Seed(0);
  ASSERT_OK_AND_ASSIGN(const Batch batch, task->NextBatch(3));
  EXPECT_EQ(batch.at("targets").numel(), count);
  EXPECT_EQ(batch.at("grids").size(0), 2);
  EXPECT_NEAR(LossOf(*task, batch), sum / static_cast<double>(count), 1e-4);
}

TEST_F(AnsweringTest, TrainedAnswersOfSeveralTokensAreGivenAndScoredAsTheOfficialMetricDoes) {
  LoraConfig lora;
  lora.r = 8;
  lora.lora_alpha = 16;
  lora.target_modules.pattern = R"(model\.layers\..*)";
  ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Attach(model_->Linears(), lora, 1));
  const std::unique_ptr<Task> task = NewTask({0, 1, 2, 3});
  ASSERT_OK_AND_ASSIGN(const MetricRecord before, task->Evaluate());
  EXPECT_EQ(std::get<int64_t>(*before.Find("vqa-num-examples")), 12);
  task->Seed(1);
  const auto loss = [&](int64_t) -> absl::StatusOr<at::Tensor> {
    absl::StatusOr<Batch> batch = task->NextBatch(4);
    if (!batch.ok()) return batch.status();
    return task->Loss(*batch);
  };
  ASSERT_THAT(Train(adapter->parameters(), loss, {.steps = 80, .learning_rate = {.value = 2e-2}}),
              IsOk());

  const std::vector<int64_t> asked = {0, 1, 2, 3};
  ASSERT_OK_AND_ASSIGN(const std::vector<std::string> answers,
                       AnswerQuestions(*model_, *format_, options_, source(), asked));
  EXPECT_THAT(answers, ElementsAre("black", "circle", "blue", "rectangle"));
  EXPECT_GT(tokens_->answers[3].size(), 2);

  ASSERT_OK_AND_ASSIGN(const MetricRecord metrics, task->Evaluate());
  std::vector<int64_t> all(12);
  std::iota(all.begin(), all.end(), 0);
  ASSERT_OK_AND_ASSIGN(const std::vector<std::string> all_answers,
                       AnswerQuestions(*model_, *format_, options_, source(), all));
  std::vector<VqaResult> results;
  for (const int64_t i : all) {
    results.push_back({folder_->questions()[i].question_id, all_answers[i]});
  }
  const double accuracy = std::get<double>(*metrics.Find("vqa-accuracy"));
  EXPECT_NEAR(100 * accuracy, ScoreVqa(folder_->questions(), results)->overall, 0.006);
  EXPECT_EQ(std::get<double>(*metrics.Find("vqa-accuracy-other")), accuracy);
  EXPECT_GE(accuracy, 4.0 / 12);
}

TEST_F(AnsweringTest, TheQuestionsThatAreAskedAreJudged) {
  ASSERT_OK_AND_ASSIGN(const MetricRecord metrics, NewTask({}, 5)->Evaluate());
  EXPECT_EQ(std::get<int64_t>(*metrics.Find("vqa-num-examples")), 3);
}

TEST_F(AnsweringTest, ABrokenPictureIsAnErrorWithItsName) {
  std::ofstream(folder_->PicturePath(100), std::ios::trunc) << "broken";
  const std::unique_ptr<Task> task = NewTask({0});
  task->Seed(0);
  EXPECT_THAT(task->NextBatch(1), StatusIs(kInvalid, HasSubstr("000000000100.jpg")));
}

TEST_F(AnsweringTest, AQuestionThatHoldsAMarkerIsRefusedByItsId) {
  std::vector<VqaQuestion> questions = folder_->questions();
  questions[1].question = "is <|image_pad|> a picture?";
  EXPECT_THAT(Tokenize(*format_, questions, true),
              StatusIs(kInvalid, AllOf(HasSubstr("100001"), HasSubstr("<|image_pad|>"))));
  questions = folder_->questions();
  questions[3].multiple_choice_answer = "x<|im_end|>";
  EXPECT_THAT(Tokenize(*format_, questions, true), StatusIs(kInvalid, HasSubstr("101001")));
  EXPECT_THAT(Tokenize(*format_, questions, false), IsOk());
}

TEST(PromptFormatTest, AWordOutsideASmallVocabularyIsNamed) {
  const std::string folder = std::string(FEDUMM_TEST_DATA) + "/../../configs/tiny";
  ASSERT_OK_AND_ASSIGN(const Tokenizer tokenizer, Tokenizer::Load(folder));
  ASSERT_OK_AND_ASSIGN(const BackboneConfig config,
                       BackboneConfig::FromJson(ReadTestData("../../configs/tiny/config.json")));
  ASSERT_OK_AND_ASSIGN(const PromptFormat format,
                       PromptFormat::Create(tokenizer, config, "auto", ""));
  ASSERT_OK_AND_ASSIGN(const std::vector<int64_t> ids, format.Question("is there a red shape?"));
  EXPECT_EQ(ids.size(), 6);
  EXPECT_EQ(format.Prompt(ids, 2).front(), config.vision_start_token_id);
  EXPECT_THAT(format.Question("is there a Zebra?"),
              StatusIs(kInvalid, AllOf(HasSubstr("vocabulary of 138"), HasSubstr("'Z'"),
                                       HasSubstr("Zebra"))));
  EXPECT_THAT(PromptFormat::Create(tokenizer, config, "chat", ""), StatusIs(kInvalid));
  BackboneConfig other = config;
  ++other.vision_start_token_id;
  EXPECT_THAT(PromptFormat::Create(tokenizer, other, "auto", ""),
              StatusIs(kInvalid, HasSubstr("vision_start_token_id")));
}

// The reference ends the assistant's empty turn in training, and not where it draws.
TEST(PromptFormatTest, TrainingEndsTheTurnBeforeThePicture) {
  const std::string release = std::string(FEDUMM_TEST_DATA) + "/blip3o/release";
  ASSERT_OK_AND_ASSIGN(const auto model, Load(release));
  ASSERT_OK_AND_ASSIGN(const Tokenizer tokenizer, Tokenizer::Load(release));
  ASSERT_OK_AND_ASSIGN(const PromptFormat format,
                       PromptFormat::Create(tokenizer, model->config(), "auto", ""));
  const std::string start =
      "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
      "Please generate image based on the following caption: a cow<|im_end|>\n"
      "<|im_start|>assistant\n";
  ASSERT_OK_AND_ASSIGN(const std::vector<int64_t> draw, format.DrawPrompt("a cow"));
  EXPECT_EQ(draw, tokenizer.Encode(start + "[IMG]").value());
  ASSERT_OK_AND_ASSIGN(const std::vector<int64_t> train, format.DrawTrainingPrompt("a cow", 500));
  EXPECT_EQ(train, tokenizer.Encode(start + "<|im_end|>\n[IMG]").value());
  // Cut to so many tokens, of which [IMG] is none.
  std::vector<int64_t> cut(train.begin(), train.begin() + 10);
  cut.push_back(train.back());
  EXPECT_EQ(format.DrawTrainingPrompt("a cow", 10).value(), cut);
  EXPECT_EQ(format.DrawTrainingPrompt("a cow", std::ssize(train) - 1).value(), train);
  EXPECT_THAT(format.DrawTrainingPrompt("a <|im_end|> cow", 500), StatusIs(kInvalid));
}

}  // namespace
}  // namespace fedumm::model
