#include "fedumm/model/client.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fedumm/aggregator.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/train.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::Not;

// Fits the linear to a constant. Its batches depend on its seed; it records its calls.
class FakeTask final : public Task {
 public:
  FakeTask(std::string name, int64_t num_examples, const Linear& linear, float target)
      : name_(std::move(name)), num_examples_(num_examples), linear_(linear), target_(target) {}

  std::string name() const override { return name_; }
  int64_t num_examples() const override { return num_examples_; }
  bool Trains(std::string_view module_path) const override { return module_path != untrained; }
  void Seed(uint64_t seed) override {
    seeds.push_back(seed);
    batch_sizes.clear();
  }
  absl::StatusOr<Batch> NextBatch(int64_t batch_size) override {
    const auto number = static_cast<int64_t>(batch_sizes.size());
    batch_sizes.push_back(batch_size);
    if (number == fail_at_batch && throw_it) {
      throw std::runtime_error(absl::StrCat("batch ", number));
    }
    if (number == fail_at_batch) return absl::DataLossError(absl::StrCat("batch ", number));
    const double shift = static_cast<double>(seeds.back() % 1000 + number) / 1000;
    return Batch{{"x", at::arange(3, at::kFloat).expand({batch_size, 3}) + shift}};
  }
  absl::StatusOr<at::Tensor> Loss(const Batch& batch) override {
    checkpointing = GradientCheckpointing::enabled();
    return (linear_(batch.at("x")) - target_).square().mean();
  }
  absl::StatusOr<MetricRecord> Evaluate() override {
    return MetricRecord{{name_ + "-accuracy", 0.5}, {name_ + "-num-examples", int64_t{7}}};
  }

  std::vector<uint64_t> seeds;
  std::vector<int64_t> batch_sizes;
  std::string untrained;  // a module path
  int64_t fail_at_batch = -1;
  bool throw_it = false;
  bool checkpointing = false;  // in the latest call of Loss

 private:
  std::string name_;
  int64_t num_examples_;
  const Linear& linear_;
  float target_;
};

LoraConfig Config() {
  LoraConfig config;
  config.r = 2;
  config.target_modules.names = {"proj"};
  return config;
}

class LoraClientTest : public ::testing::Test {
 protected:
  LoraClientTest() : app_(NewApp()) {}

  ClientApp NewApp() {
    return NewLoraClient(
        *adapter_,
        [this](int64_t partition, int64_t) -> absl::StatusOr<std::vector<std::unique_ptr<Task>>> {
          if (partition == 9) return absl::NotFoundError("no such partition");
          std::vector<std::unique_ptr<Task>> tasks;
          for (const auto& [name, count] : examples_) {
            auto task = std::make_unique<FakeTask>(name, count, linear_, target_);
            fakes_[{partition, name}] = task.get();
            if (name == "vqa") task->untrained = untrained_by_vqa_;
            tasks.push_back(std::move(task));
          }
          return tasks;
        },
        {.state_folder = state_folder_, .clock = [this] { return now_ += absl::Seconds(1); }});
  }

  Message TrainMessage(ConfigRecord config = {{"server-round", int64_t{1}}}) {
    Message message;
    message.metadata.message_type = message_type::kTrain;
    message.content.emplace();
    message.content->Set("arrays", initial_);
    message.content->Set("config", std::move(config));
    return message;
  }
  absl::StatusOr<RecordDict> Handle(const Message& message, int64_t partition = 0) {
    context_.node_config = {{"partition-id", partition}, {"num-partitions", int64_t{4}}};
    return app_.Handle(message, context_);
  }

  ArrayRecord Trained(ConfigRecord message, ConfigRecord run);

  Linear linear_{.weight = at::ones({4, 3}) * 0.1};
  std::unique_ptr<LoraAdapter> adapter_ =
      LoraAdapter::Attach({{"model.proj", &linear_}}, Config(), 1).value();
  ArrayRecord initial_ = adapter_->ToArrays();
  std::vector<std::pair<std::string, int64_t>> examples_ = {{"vqa", 10}, {"draw", 5}};
  std::string untrained_by_vqa_;
  float target_ = 1;
  std::string state_folder_;
  absl::Time now_ = absl::UnixEpoch();
  std::map<std::pair<int64_t, std::string>, FakeTask*> fakes_;
  Context context_{.run_id = 1,
                   .run_config = {{"seed", int64_t{3}},
                                  {"train.local-steps", int64_t{4}},
                                  {"train.vqa-batch-size", int64_t{2}},
                                  {"train.learning-rate", 0.05},
                                  {"train.keep-optimizer", false}}};
  ClientApp app_;
};

TEST_F(LoraClientTest, RepliesWithTheTrainedAdapterAndItsMetrics) {
  const std::string backbone = HashParameters({{"proj", &linear_.weight}}).value();
  ASSERT_OK_AND_ASSIGN(const RecordDict reply, Handle(TrainMessage()));
  const ArrayRecord* arrays = reply.FindArrays("arrays");
  ASSERT_NE(arrays, nullptr);
  EXPECT_EQ(arrays->begin()->first, "base_model.model.model.proj.lora_A.weight");
  EXPECT_EQ(arrays->size(), 2);
  EXPECT_FALSE(*arrays == initial_);
  const MetricRecord* metrics = reply.FindMetrics("metrics");
  ASSERT_NE(metrics, nullptr);
  EXPECT_EQ(NumberOr(*metrics, "num-examples", 0), 15);
  EXPECT_EQ(NumberOr(*metrics, "seconds", 0), 1);
  const double vqa = NumberOr(*metrics, "vqa-loss", 0);
  EXPECT_GT(vqa, 0);
  EXPECT_NEAR(NumberOr(*metrics, "train-loss", 0), vqa + NumberOr(*metrics, "draw-loss", 0), 1e-6);
  EXPECT_THAT((fakes_[{0, "vqa"}]->batch_sizes), ::testing::ElementsAre(2, 2, 2, 2));
  EXPECT_THAT((fakes_[{0, "draw"}]->batch_sizes), ::testing::ElementsAre(8, 8, 8, 8));
  EXPECT_EQ(HashParameters({{"proj", &linear_.weight}}).value(), backbone);
}

TEST_F(LoraClientTest, ATensorCountsWithTheExamplesOfTheTasksThatTrainIt) {
  ASSERT_OK_AND_ASSIGN(const RecordDict all, Handle(TrainMessage(), 0));
  EXPECT_EQ(all.FindConfig(kTensorSharesRecord), nullptr);
  untrained_by_vqa_ = "model.proj";
  ASSERT_OK_AND_ASSIGN(const RecordDict some, Handle(TrainMessage(), 1));
  const ConfigRecord* shares = some.FindConfig(kTensorSharesRecord);
  ASSERT_NE(shares, nullptr);
  EXPECT_EQ(*shares->Find(kTensorSharesKey), ConfigValue(std::vector<double>{5.0 / 15, 5.0 / 15}));
}

TEST_F(LoraClientTest, AnEvaluationMayPersonaliseAndJudgeAgain) {
  Message message = TrainMessage({{"server-round", int64_t{2}}, {"personalise-steps", int64_t{3}}});
  message.metadata.message_type = message_type::kEvaluate;
  ASSERT_OK_AND_ASSIGN(const RecordDict reply, Handle(message));
  const MetricRecord& metrics = *reply.FindMetrics("metrics");
  EXPECT_EQ(NumberOr(metrics, "vqa-accuracy", 0), 0.5);
  EXPECT_EQ(NumberOr(metrics, "vqa-accuracy-personalised", 0), 0.5);
  EXPECT_EQ(NumberOr(metrics, "num-examples", 0), 14);
  EXPECT_FALSE(metrics.contains("vqa-num-examples-personalised"));
  EXPECT_THAT((fakes_[{0, "vqa"}]->batch_sizes), ::testing::SizeIs(3));
  EXPECT_FALSE(adapter_->ToArrays() == initial_);
  message.content->Set("config", ConfigRecord{{"personalise-steps", 1e9}});
  EXPECT_THAT(Handle(message),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("personalise-steps")));
}

TEST_F(LoraClientTest, WithoutKeepOptimizerAReplyDoesNotDependOnEarlierTraining) {
  ASSERT_OK_AND_ASSIGN(const RecordDict first, Handle(TrainMessage(), 0));
  ASSERT_OK_AND_ASSIGN(const RecordDict other, Handle(TrainMessage(), 1));
  ASSERT_OK_AND_ASSIGN(const RecordDict again, Handle(TrainMessage(), 0));
  EXPECT_EQ(*again.FindArrays("arrays"), *first.FindArrays("arrays"));
  EXPECT_FALSE(*other.FindArrays("arrays") == *first.FindArrays("arrays"));
  ASSERT_OK_AND_ASSIGN(const RecordDict next, Handle(TrainMessage({{"server-round", int64_t{2}}})));
  EXPECT_FALSE(*next.FindArrays("arrays") == *first.FindArrays("arrays"));
}

TEST_F(LoraClientTest, AKeptOptimizerGoesOnInANewProcessWithTheSameBits) {
  const auto round = [&](int64_t number) {
    Message message = TrainMessage(
        {{"server-round", number}, {"num-rounds", int64_t{4}}, {"keep-optimizer", true}});
    message.content->Set("arrays", initial_);
    absl::StatusOr<RecordDict> reply = Handle(message);
    EXPECT_THAT(reply.status(), IsOk());
    return *std::move(reply);
  };
  const auto steps = [](const RecordDict& reply) {
    return NumberOr(*reply.FindMetrics("metrics"), "optimizer-steps", -1);
  };
  EXPECT_EQ(steps(round(1)), 0);
  const RecordDict straight = round(2);
  EXPECT_EQ(steps(straight), 4);

  state_folder_ = ::testing::TempDir() + "/fedumm_kept_optimizer";
  std::filesystem::remove_all(state_folder_);
  app_ = NewApp();
  context_.run_id = 2;
  round(1);
  round(2);  // of the process that is killed then: the server has only seen round 1
  app_ = NewApp();
  context_.run_id = 3;
  const RecordDict resumed = round(2);
  EXPECT_EQ(steps(resumed), 4);
  EXPECT_EQ(*resumed.FindArrays("arrays"), *straight.FindArrays("arrays"));

  // The state is in the folder alone: memory does not grow with the number of partitions.
  EXPECT_EQ(steps(round(3)), 8);
  std::filesystem::remove_all(state_folder_);
  EXPECT_EQ(steps(round(4)), 0);

  // The first round of a run is fresh, whatever lies there.
  app_ = NewApp();
  context_.run_id = 4;
  EXPECT_EQ(steps(round(1)), 0);
  std::filesystem::remove_all(state_folder_);
}

TEST_F(LoraClientTest, ADamagedOptimizerFileIsNamed) {
  state_folder_ = ::testing::TempDir() + "/fedumm_damaged_optimizer";
  std::filesystem::create_directories(state_folder_);
  app_ = NewApp();
  context_.run_id = 2;
  std::ofstream(state_folder_ + "/optimizer-0-of-4-round-1.safetensors") << "no tensors";
  EXPECT_THAT(Handle(TrainMessage({{"server-round", int64_t{2}}, {"keep-optimizer", true}})),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("optimizer-0-of-4-round-1")));
  std::filesystem::remove_all(state_folder_);
}

TEST_F(LoraClientTest, KeysComeBackAsTheyWereSent) {
  Message message = TrainMessage();
  ArrayRecord sent;
  for (const char* matrix : {"B", "A"}) {
    const std::string key = std::string("base_model.model.model.proj.lora_") + matrix;
    sent.Set(key + ".default.weight", *initial_.Find(key + ".weight"));
  }
  message.content->Set("arrays", sent);
  ASSERT_OK_AND_ASSIGN(const RecordDict reply, Handle(message));
  EXPECT_EQ(reply.FindArrays("arrays")->begin()->first,
            "base_model.model.model.proj.lora_B.default.weight");
}

TEST_F(LoraClientTest, TheMessageOverridesTheRun) {
  ASSERT_THAT(Handle(TrainMessage({{"local-steps", int64_t{1}}, {"batch-size", int64_t{3}}})),
              IsOk());
  EXPECT_THAT((fakes_[{0, "draw"}]->batch_sizes), ::testing::ElementsAre(3));
  EXPECT_THAT((fakes_[{0, "vqa"}]->batch_sizes), ::testing::ElementsAre(3));
  ASSERT_THAT(Handle(TrainMessage({{"local-steps", int64_t{1}},
                                   {"train.vqa-batch-size", int64_t{4}},
                                   {"batch-size", int64_t{3}}})),
              IsOk());
  EXPECT_EQ((fakes_[{0, "draw"}]->batch_sizes.back()), 3);
  EXPECT_EQ((fakes_[{0, "vqa"}]->batch_sizes.back()), 4);
}

// The adapter after training with these keys in message and run.
ArrayRecord LoraClientTest::Trained(ConfigRecord message, ConfigRecord run) {
  context_.run_config = std::move(run);
  return *Handle(TrainMessage(std::move(message)))->FindArrays("arrays");
}

TEST_F(LoraClientTest, ARunConfigThatLacksKeysTrainsWithTheTablesValues) {
  ConfigRecord whole;
  for (const Setting& setting : TrainSettings()) whole.Set(setting.key, setting.default_value);
  for (const Setting& setting : TaskSettings("vqa", {})) {
    whole.Set(setting.key, setting.default_value);
  }
  const ConfigRecord rounds = {{"num-rounds", int64_t{40}}};
  const ArrayRecord expected = Trained(rounds, whole);
  app_ = NewApp();
  EXPECT_EQ(Trained(rounds, {}), expected);
  EXPECT_THAT((fakes_[{0, "vqa"}]->batch_sizes), ::testing::Each(8));
  EXPECT_EQ((fakes_[{0, "vqa"}]->batch_sizes.size()), 10);
  app_ = NewApp();
  EXPECT_EQ(Trained(rounds, {{"train.max-grad-norm", 1.0}, {"learning-rate", 5e-3}}), expected);
  app_ = NewApp();
  EXPECT_FALSE(Trained(rounds, {{"train.learning-rate", 3e-4}}) == expected);
}

TEST_F(LoraClientTest, WhatARunConfigLacksIsLoggedOnceARun) {
  context_.run_config = {{"train.local-steps", int64_t{1}}};
  ::testing::internal::CaptureStdout();
  ASSERT_THAT(Handle(TrainMessage()), IsOk());
  const std::string first = ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(first, HasSubstr("run 1: its config lacks training settings"));
  EXPECT_THAT(first, HasSubstr("train.learning-rate = 0.005"));
  EXPECT_THAT(first, HasSubstr("train.draw-batch-size = 8"));
  EXPECT_THAT(first, Not(HasSubstr("train.local-steps =")));
  EXPECT_THAT(first, HasSubstr("the learning rate stays constant"));
  ::testing::internal::CaptureStdout();
  ASSERT_THAT(Handle(TrainMessage({{"server-round", int64_t{2}}})), IsOk());
  ASSERT_THAT(Handle(TrainMessage(), 1), IsOk());
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
}

TEST_F(LoraClientTest, UnknownKeysAreNamedOnceARun) {
  context_.run_config.Set("train.warmup-step", int64_t{1});
  context_.run_config.Set("my-own-key", int64_t{1});
  context_.run_config.Set("lora.r", int64_t{1});
  context_.run_config.Set("learnig-rate", 0.1);
  context_.run_config.Set("num-server-rounds", int64_t{5});
  const Message message = TrainMessage({{"server-round", int64_t{1}},
                                        {"num-rounds", int64_t{5}},
                                        {"proximal-mu", 0.1},
                                        {"clipping_norm", 10.0},
                                        {"batch_size", int64_t{4}},
                                        {"temperature", 2.0}});
  ::testing::internal::CaptureStdout();
  ASSERT_THAT(Handle(message), IsOk());
  const std::string first = ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(first, HasSubstr("the run config has the key 'train.warmup-step'"));
  EXPECT_THAT(first, HasSubstr("(did you mean 'train.warmup-steps'?)"));
  EXPECT_THAT(first, HasSubstr("the run config has the key 'learnig-rate'"));
  EXPECT_THAT(first, HasSubstr("a message's train config has the key 'batch_size'"));
  EXPECT_THAT(first, HasSubstr("(did you mean 'batch-size'?)"));
  EXPECT_THAT(first, HasSubstr("a message's train config has the key 'temperature'"));
  for (const char* known :
       {"'my-own-key'", "'lora.r'", "'num-server-rounds'", "'num-rounds'", "'proximal-mu'",
        "'clipping_norm'", "'seed'", "'train.vqa-batch-size'"}) {
    EXPECT_THAT(first, Not(HasSubstr(absl::StrCat("key ", known))));
  }
  ::testing::internal::CaptureStdout();
  ASSERT_THAT(Handle(message), IsOk());
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
}

TEST_F(LoraClientTest, FlowersLrIsTheLearningRate) {
  const ArrayRecord expected =
      *Handle(TrainMessage({{"learning-rate", 0.01}}))->FindArrays("arrays");
  EXPECT_EQ(*Handle(TrainMessage({{"lr", 0.01}}))->FindArrays("arrays"), expected);
}

TEST_F(LoraClientTest, OnlyTheTasksThatAreChosenAreTrained) {
  ASSERT_OK_AND_ASSIGN(const RecordDict reply, Handle(TrainMessage({{"tasks", "draw"}})));
  EXPECT_FALSE(reply.FindMetrics("metrics")->contains("vqa-loss"));
  EXPECT_EQ(NumberOr(*reply.FindMetrics("metrics"), "num-examples", 0), 5);
  EXPECT_THAT(Handle(TrainMessage({{"tasks", "sing"}})),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

double SquaredDistance(const ArrayRecord& a, const ArrayRecord& b) {
  double sum = 0;
  for (const auto& [key, array] : a) {
    const std::vector<double> x = array.ToDoubles();
    const std::vector<double> y = b.Find(key)->ToDoubles();
    for (size_t i = 0; i < x.size(); ++i) sum += (x[i] - y[i]) * (x[i] - y[i]);
  }
  return sum;
}

TEST_F(LoraClientTest, ProximalMuHoldsTheAdapterBack) {
  const ArrayRecord without = *Handle(TrainMessage())->FindArrays("arrays");
  const ArrayRecord zero = *Handle(TrainMessage({{"proximal-mu", 0.0}}))->FindArrays("arrays");
  EXPECT_EQ(zero, without);
  const ArrayRecord held = *Handle(TrainMessage({{"proximal-mu", 1000.0}}))->FindArrays("arrays");
  EXPECT_LT(SquaredDistance(held, initial_), 0.5 * SquaredDistance(without, initial_));
  EXPECT_THAT(Handle(TrainMessage({{"proximal-mu", -1.0}})),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("proximal-mu")));
}

TEST_F(LoraClientTest, AnUpdateIsClippedToTheNormOfTheMessage) {
  const ArrayRecord without = *Handle(TrainMessage())->FindArrays("arrays");
  const double norm = std::sqrt(SquaredDistance(without, initial_));
  ASSERT_OK_AND_ASSIGN(const RecordDict clipped,
                       Handle(TrainMessage({{"clipping_norm", norm / 2}})));
  EXPECT_NEAR(std::sqrt(SquaredDistance(*clipped.FindArrays("arrays"), initial_)), norm / 2,
              1e-6 * norm);
  EXPECT_EQ(NumberOr(*clipped.FindMetrics("metrics"), "norm_bit", -1), 1);
  ASSERT_OK_AND_ASSIGN(const RecordDict whole, Handle(TrainMessage({{"clipping_norm", norm * 2}})));
  EXPECT_EQ(*whole.FindArrays("arrays"), without);
  EXPECT_EQ(NumberOr(*whole.FindMetrics("metrics"), "norm_bit", -1), 0);
}

TEST_F(LoraClientTest, AModWrapsTheAppAndSharesItsState) {
  app_.Wrap([](const Message& message, Context& context,
               const ClientAppCall& next) -> absl::StatusOr<RecordDict> {
    absl::StatusOr<RecordDict> reply = next(message, context);
    if (reply.ok()) reply->Set("note", ConfigRecord{{"seen", true}});
    return reply;
  });
  ASSERT_OK_AND_ASSIGN(const RecordDict reply, Handle(TrainMessage()));
  EXPECT_NE(reply.FindConfig("note"), nullptr);
  EXPECT_NE(reply.FindArrays("arrays"), nullptr);
}

TEST_F(LoraClientTest, ErrorsAndExceptionsOfABatchAreReplies) {
  ASSERT_THAT(Handle(TrainMessage({{"local-steps", int64_t{1}}})), IsOk());
  FakeTask* const task = fakes_[{0, "draw"}];
  task->fail_at_batch = 3;
  EXPECT_THAT(Handle(TrainMessage()), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("batch 3")));
  task->fail_at_batch = 2;
  task->throw_it = true;
  EXPECT_THAT(Handle(TrainMessage()), StatusIs(absl::StatusCode::kInternal, HasSubstr("batch 2")));
  task->fail_at_batch = -1;
  EXPECT_THAT(Handle(TrainMessage()), IsOk());
}

TEST_F(LoraClientTest, PrefetchedBatchesGiveTheBitsOfDirectCalls) {
  examples_ = {{"vqa", 10}};
  ASSERT_OK_AND_ASSIGN(const RecordDict reply, Handle(TrainMessage({{"num-rounds", int64_t{2}}})));
  const FakeTask* const fake = fakes_[{0, "vqa"}];
  FakeTask direct("vqa", 10, linear_, target_);
  direct.Seed(fake->seeds.back());
  ASSERT_THAT(adapter_->FromArrays(initial_), IsOk());
  TrainOptions options{.steps = 4, .max_grad_norm = 1};
  options.learning_rate = {.value = 0.05, .cosine = true, .total_steps = 8};
  ASSERT_THAT(Train(
                  adapter_->parameters(),
                  [&](int64_t) { return direct.Loss(*direct.NextBatch(2)); }, options),
              IsOk());
  EXPECT_EQ(adapter_->ToArrays(), *reply.FindArrays("arrays"));
}

TEST_F(LoraClientTest, GradientCheckpointingIsOnInTrainingIfItIsSet) {
  ASSERT_THAT(Handle(TrainMessage()), IsOk());
  const FakeTask* task = fakes_.at({0, "vqa"});
  EXPECT_FALSE(task->checkpointing);
  ASSERT_THAT(Handle(TrainMessage({{"gradient-checkpointing", true}})), IsOk());
  EXPECT_TRUE(task->checkpointing);
  EXPECT_FALSE(GradientCheckpointing::enabled());
  context_.run_config.Set("train.gradient-checkpointing", true);
  ASSERT_THAT(Handle(TrainMessage({{"gradient-checkpointing", false}})), IsOk());
  EXPECT_FALSE(task->checkpointing);
  ASSERT_THAT(Handle(TrainMessage()), IsOk());
  EXPECT_TRUE(task->checkpointing);
}

TEST_F(LoraClientTest, TheOptimizerStateIsDroppedUnlessKeepOptimizerIsSet) {
  const auto two_rounds = [&](bool keep) {
    app_ = NewApp();
    const ConfigRecord config = {{"keep-optimizer", keep}, {"server-round", int64_t{1}}};
    EXPECT_THAT(Handle(TrainMessage(config)), IsOk());
    return *Handle(TrainMessage(config))->FindArrays("arrays");
  };
  const ArrayRecord once = *Handle(TrainMessage())->FindArrays("arrays");
  EXPECT_EQ(two_rounds(false), once);
  const ArrayRecord kept = two_rounds(true);
  EXPECT_FALSE(kept == once);
  context_.run_id = 2;
  const ConfigRecord config = {{"keep-optimizer", true}, {"server-round", int64_t{1}}};
  EXPECT_EQ(*Handle(TrainMessage(config))->FindArrays("arrays"), once) << "another run";
}

TEST_F(LoraClientTest, TheCosineRunsOverAllRounds) {
  const auto train = [&](int64_t round) {
    return Handle(TrainMessage({{"server-round", round},
                                {"schedule", "cosine"},
                                {"num-rounds", int64_t{2}},
                                {"local-steps", int64_t{1}}}));
  };
  ASSERT_THAT(train(1), IsOk());
  // The third of two rounds is past the end: the learning rate is 0.
  EXPECT_EQ(*train(3)->FindArrays("arrays"), initial_);
  EXPECT_FALSE(*train(2)->FindArrays("arrays") == initial_);
  EXPECT_THAT(Handle(TrainMessage({{"schedule", "cosine"}})),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("num-rounds")));
  for (const char* key : {"federation.rounds", "num-server-rounds", "train.num-rounds"}) {
    context_.run_config.Set(key, int64_t{2});
    EXPECT_EQ(*Handle(TrainMessage({{"server-round", int64_t{3}}, {"schedule", "cosine"}}))
                   ->FindArrays("arrays"),
              initial_)
        << key;
  }
}

TEST_F(LoraClientTest, WrongSettingsAreRejectedByName) {
  for (const auto& [key, value] :
       std::vector<ConfigRecord::Item>{{"local-steps", int64_t{-1}},
                                       {"local-steps", 1.5},
                                       {"vqa-batch-size", int64_t{0}},
                                       {"learning-rate", std::string("fast")},
                                       {"learning-rate", std::numeric_limits<double>::quiet_NaN()},
                                       {"schedule", std::string("sawtooth")},
                                       {"server-round", int64_t{0}},
                                       {"seed", 0.5}}) {
    EXPECT_THAT(Handle(TrainMessage({{key, value}})),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(key)));
  }
}

TEST_F(LoraClientTest, AnAdapterThatDoesNotFitIsRejected) {
  Message message = TrainMessage();
  message.content->Set("arrays", ArrayRecord{{"head", Array()}});
  EXPECT_THAT(Handle(message), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("head")));
  message.content.emplace();
  EXPECT_THAT(Handle(message), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("arrays")));
  message.content.reset();
  EXPECT_THAT(Handle(message), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("arrays")));
}

TEST_F(LoraClientTest, ALossThatIsNotFiniteIsAnErrorAndTheNextMessageSucceeds) {
  ASSERT_OK_AND_ASSIGN(const RecordDict expected, Handle(TrainMessage()));
  target_ = std::numeric_limits<float>::infinity();
  EXPECT_THAT(Handle(TrainMessage(), 1),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("step 0")));
  ASSERT_OK_AND_ASSIGN(const RecordDict reply, Handle(TrainMessage()));
  EXPECT_EQ(*reply.FindArrays("arrays"), *expected.FindArrays("arrays"));
}

TEST_F(LoraClientTest, ATaskWithoutExamplesIsNotTrained) {
  examples_ = {{"vqa", 0}, {"draw", 5}};
  ASSERT_OK_AND_ASSIGN(const RecordDict reply, Handle(TrainMessage()));
  EXPECT_EQ(NumberOr(*reply.FindMetrics("metrics"), "num-examples", 0), 5);
  EXPECT_FALSE(reply.FindMetrics("metrics")->contains("vqa-loss"));
  examples_ = {{"vqa", 0}};
  EXPECT_THAT(Handle(TrainMessage(), 1), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(Handle(TrainMessage(), 9), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(LoraClientTest, EvaluationReturnsTheMetricsOfAllTasks) {
  Message message = TrainMessage();
  message.metadata.message_type = message_type::kEvaluate;
  ASSERT_OK_AND_ASSIGN(const RecordDict reply, Handle(message));
  const MetricRecord* metrics = reply.FindMetrics("metrics");
  ASSERT_NE(metrics, nullptr);
  EXPECT_EQ(NumberOr(*metrics, "num-examples", 0), 14);
  EXPECT_EQ(NumberOr(*metrics, "vqa-accuracy", 0), 0.5);
  EXPECT_EQ(NumberOr(*metrics, "draw-accuracy", 0), 0.5);
  EXPECT_EQ(reply.FindArrays("arrays"), nullptr);
}

}  // namespace
}  // namespace fedumm::model
