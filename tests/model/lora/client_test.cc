#include "fedumm/model/client.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <string>
#include <vector>

#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::HasSubstr;

// Fits the linear to a constant; its batches follow its seed, and it writes down what it is asked.
class FakeTask final : public Task {
 public:
  FakeTask(std::string name, int64_t num_examples, const Linear& linear, float target)
      : name_(std::move(name)), num_examples_(num_examples), linear_(linear), target_(target) {}

  std::string name() const override { return name_; }
  int64_t num_examples() const override { return num_examples_; }
  void Seed(uint64_t seed) override { seeds.push_back(seed); }
  absl::StatusOr<Batch> NextBatch(int64_t batch_size) override {
    batch_sizes.push_back(batch_size);
    const double shift = static_cast<double>(seeds.back() % 1000) / 1000;
    return Batch{{"x", at::arange(3, at::kFloat).expand({batch_size, 3}) + shift}};
  }
  absl::StatusOr<at::Tensor> Loss(const Batch& batch) override {
    return (linear_(batch.at("x")) - target_).square().mean();
  }
  absl::StatusOr<MetricRecord> Evaluate() override {
    return MetricRecord{{name_ + "-accuracy", 0.5}, {name_ + "-num-examples", int64_t{7}}};
  }

  std::vector<uint64_t> seeds;
  std::vector<int64_t> batch_sizes;

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
            tasks.push_back(std::move(task));
          }
          return tasks;
        },
        [this] { return now_ += absl::Seconds(1); });
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

  Linear linear_{.weight = at::ones({4, 3}) * 0.1};
  std::unique_ptr<LoraAdapter> adapter_ =
      LoraAdapter::Attach({{"model.proj", &linear_}}, Config(), 1).value();
  ArrayRecord initial_ = adapter_->ToArrays();
  std::vector<std::pair<std::string, int64_t>> examples_ = {{"vqa", 10}, {"draw", 5}};
  float target_ = 1;
  absl::Time now_ = absl::UnixEpoch();
  std::map<std::pair<int64_t, std::string>, FakeTask*> fakes_;
  Context context_{.run_id = 1,
                   .run_config = {{"seed", int64_t{3}},
                                  {"train.local-steps", int64_t{4}},
                                  {"train.vqa-batch-size", int64_t{2}},
                                  {"train.learning-rate", 0.05}}};
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

TEST_F(LoraClientTest, AReplyDoesNotDependOnWhatWasTrainedBefore) {
  ASSERT_OK_AND_ASSIGN(const RecordDict first, Handle(TrainMessage(), 0));
  ASSERT_OK_AND_ASSIGN(const RecordDict other, Handle(TrainMessage(), 1));
  ASSERT_OK_AND_ASSIGN(const RecordDict again, Handle(TrainMessage(), 0));
  EXPECT_EQ(*again.FindArrays("arrays"), *first.FindArrays("arrays"));
  EXPECT_FALSE(*other.FindArrays("arrays") == *first.FindArrays("arrays"));
  ASSERT_OK_AND_ASSIGN(const RecordDict next, Handle(TrainMessage({{"server-round", int64_t{2}}})));
  EXPECT_FALSE(*next.FindArrays("arrays") == *first.FindArrays("arrays"));
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
  EXPECT_THAT((fakes_[{0, "vqa"}]->batch_sizes), ::testing::ElementsAre(2));
}

TEST_F(LoraClientTest, TheOptimiserIsForgottenUnlessItIsToBeKept) {
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
}

TEST_F(LoraClientTest, SettingsThatMakeNoSenseAreRefusedByName) {
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

TEST_F(LoraClientTest, AnAdapterThatDoesNotFitIsRefused) {
  Message message = TrainMessage();
  message.content->Set("arrays", ArrayRecord{{"head", Array()}});
  EXPECT_THAT(Handle(message), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("head")));
  message.content.emplace();
  EXPECT_THAT(Handle(message), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("arrays")));
  message.content.reset();
  EXPECT_THAT(Handle(message), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("arrays")));
}

TEST_F(LoraClientTest, ALossThatIsNotFiniteIsAnErrorAndTheNextMessageIsFine) {
  ASSERT_OK_AND_ASSIGN(const RecordDict expected, Handle(TrainMessage()));
  target_ = std::numeric_limits<float>::infinity();
  EXPECT_THAT(Handle(TrainMessage(), 1),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("step 0")));
  ASSERT_OK_AND_ASSIGN(const RecordDict reply, Handle(TrainMessage()));
  EXPECT_EQ(*reply.FindArrays("arrays"), *expected.FindArrays("arrays"));
}

TEST_F(LoraClientTest, ATaskWithoutExamplesIsLeftOut) {
  examples_ = {{"vqa", 0}, {"draw", 5}};
  ASSERT_OK_AND_ASSIGN(const RecordDict reply, Handle(TrainMessage()));
  EXPECT_EQ(NumberOr(*reply.FindMetrics("metrics"), "num-examples", 0), 5);
  EXPECT_FALSE(reply.FindMetrics("metrics")->contains("vqa-loss"));
  examples_ = {{"vqa", 0}};
  EXPECT_THAT(Handle(TrainMessage(), 1), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(Handle(TrainMessage(), 9), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(LoraClientTest, EvaluationJoinsWhatTheTasksSay) {
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
