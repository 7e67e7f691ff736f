#include "strategy/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"
#include "fake_grid.h"
#include "fedumm/strategies.h"
#include "tests/testing/status_matchers.h"

namespace fedumm {
namespace {

using ::testing::ElementsAre;
using testing::FakeGrid;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

Array Floats(const std::vector<float>& values) {
  return Array::FromFloats({static_cast<int64_t>(values.size())}, values);
}

// Averaging with momentum on the server: m = 0.9 m + (mean - x); x moves by m.
class Momentum final : public FedAvg {
  absl::StatusOr<ArrayRecord> Step(const Round& round, ArrayRecord mean) override {
    ArrayRecord next;
    for (const auto& [key, array] : mean) {
      std::vector<float> values = FloatsOf(round.arrays.Find(key));
      std::vector<float> moments = FloatsOf(moments_.Find(key));
      moments.resize(values.size());
      for (size_t i = 0; i < values.size(); ++i) {
        moments[i] = 0.9f * moments[i] + ((*array.floats())[i] - values[i]);
        values[i] += moments[i];
      }
      moments_.Set(key, Floats(moments));
      next.Set(key, Floats(values));
    }
    return next;
  }
  ArrayRecord SaveState() const override { return moments_; }
  absl::Status RestoreState(const ArrayRecord& state) override {
    moments_ = state;
    return absl::OkStatus();
  }

  static std::vector<float> FloatsOf(const Array* array) {
    if (array == nullptr) return {};
    const auto floats = *array->floats();
    return {floats.begin(), floats.end()};
  }

  ArrayRecord moments_;
};

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() {
    Remove();
    for (uint64_t id = 2; id < 8; ++id) {
      grid_.AddNode(id, [id](const Message& message) -> absl::StatusOr<RecordDict> {
        if (id == 5) return absl::InternalError("always broken");
        const Array& w = *message.content->FindArrays("arrays")->Find("w");
        const MetricRecord metrics = {{"num-examples", static_cast<int64_t>(id)},
                                      {"first", w.ToDoubles()[0]},
                                      {"list", std::vector<uint64_t>{id}}};
        if (message.metadata.message_type == message_type::kEvaluate) {
          return RecordDict{{"metrics", metrics}};
        }
        std::vector<float> values;
        for (const double value : w.ToDoubles()) {
          values.push_back(static_cast<float>(value * 0.9 + 0.1 * static_cast<double>(id)));
        }
        return RecordDict{{"arrays", ArrayRecord{{"w", Floats(values)}}}, {"metrics", metrics}};
      });
    }
  }
  ~CheckpointTest() override { Remove(); }
  void Remove() {
    std::filesystem::remove(path_);
    std::filesystem::remove(log_path_);
  }

  // A run of `num_rounds`, which dies in the round after `last` if that is given.
  absl::StatusOr<Result> Start(int64_t num_rounds, std::string path, int64_t last = 1000,
                               uint64_t seed = 11) {
    StartOptions options = {.num_rounds = num_rounds, .seed = seed, .checkpoint_path = path};
    options.evaluate_fn = [last](int64_t round,
                                 const ArrayRecord& arrays) -> absl::StatusOr<MetricRecord> {
      if (round > last) return absl::AbortedError("killed");
      return MetricRecord{{"w1", arrays.Find("w")->ToDoubles()[1]}};
    };
    Momentum strategy;
    return strategy.Start(grid_, ArrayRecord{{"w", Floats({1, -2, 0.5f})}}, options);
  }

  static void ExpectSame(const Result& a, const Result& b) {
    EXPECT_EQ(a.arrays, b.arrays);
    ASSERT_EQ(a.rounds.size(), b.rounds.size());
    for (size_t i = 0; i < a.rounds.size(); ++i) {
      EXPECT_EQ(a.rounds[i].number, b.rounds[i].number);
      EXPECT_EQ(a.rounds[i].updated, b.rounds[i].updated);
      EXPECT_EQ(a.rounds[i].train_metrics, b.rounds[i].train_metrics);
      EXPECT_EQ(a.rounds[i].evaluate_metrics, b.rounds[i].evaluate_metrics);
      EXPECT_EQ(a.rounds[i].server_metrics, b.rounds[i].server_metrics);
      ASSERT_EQ(a.rounds[i].nodes.size(), b.rounds[i].nodes.size());
      for (size_t j = 0; j < a.rounds[i].nodes.size(); ++j) {
        EXPECT_EQ(a.rounds[i].nodes[j].node_id, b.rounds[i].nodes[j].node_id);
        EXPECT_EQ(a.rounds[i].nodes[j].accepted, b.rounds[i].nodes[j].accepted);
        EXPECT_EQ(a.rounds[i].nodes[j].reason, b.rounds[i].nodes[j].reason);
        EXPECT_EQ(a.rounds[i].nodes[j].metrics, b.rounds[i].nodes[j].metrics);
        EXPECT_EQ(a.rounds[i].nodes[j].traffic.bytes_down, b.rounds[i].nodes[j].traffic.bytes_down);
      }
    }
  }

  FakeGrid grid_;
  const std::string path_ =
      ::testing::TempDir() + "/" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
  const std::string log_path_ = path_ + ".rounds";
};

TEST_F(CheckpointTest, AResumedRunEqualsAnUndisturbedOne) {
  ASSERT_OK_AND_ASSIGN(const Result undisturbed, Start(6, ""));
  for (int64_t last = 0; last < 6; ++last) {
    Remove();
    ASSERT_THAT(Start(6, path_, last), StatusIs(absl::StatusCode::kAborted));
    EXPECT_TRUE(std::filesystem::exists(path_));
    const size_t sent = grid_.sent.size();
    ASSERT_OK_AND_ASSIGN(const Result resumed, Start(6, path_));
    EXPECT_EQ(grid_.sent.size() - sent, 2 * 6 * (6 - last));  // only the rounds after `last`
    ExpectSame(resumed, undisturbed);
  }
}

TEST_F(CheckpointTest, AFinishedRunReturnsItsResultAgainAndMayGoOn) {
  ASSERT_OK_AND_ASSIGN(const Result first, Start(2, path_));
  const size_t sent = grid_.sent.size();
  ASSERT_OK_AND_ASSIGN(const Result again, Start(2, path_));
  EXPECT_EQ(grid_.sent.size(), sent);
  ExpectSame(again, first);
  ASSERT_OK_AND_ASSIGN(const Result longer, Start(4, path_));
  ASSERT_OK_AND_ASSIGN(const Result undisturbed, Start(4, ""));
  ExpectSame(longer, undisturbed);
}

TEST_F(CheckpointTest, AnotherSeedArraysOrStrategyIsRefused) {
  ASSERT_THAT(Start(1, path_), IsOk());
  EXPECT_THAT(Start(1, path_, 1000, /*seed=*/12),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("seed 11, not 12")));
  const StartOptions options = {.num_rounds = 2, .seed = 11, .checkpoint_path = path_};
  EXPECT_THAT(Momentum().Start(grid_, ArrayRecord{{"w", Floats({1, 2})}}, options),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("other arrays")));
  EXPECT_THAT(FedAvg().Start(grid_, ArrayRecord{{"w", Floats({1, 2, 3})}}, options),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("another strategy")));
}

TEST_F(CheckpointTest, EveryTruncationAndEveryFlippedByteIsDataLoss) {
  ASSERT_THAT(Start(1, path_), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::string bytes, ReadFile(path_));
  ASSERT_THAT(DecodeCheckpoint(bytes), IsOk());
  for (size_t i = 0; i < bytes.size(); ++i) {
    EXPECT_THAT(DecodeCheckpoint(bytes.substr(0, i)), StatusIs(absl::StatusCode::kDataLoss));
    std::string flipped = bytes;
    flipped[i] ^= 0x20;
    EXPECT_THAT(DecodeCheckpoint(flipped), StatusIs(absl::StatusCode::kDataLoss));
  }
  ASSERT_THAT(WriteFileAtomically(path_, bytes.substr(0, bytes.size() - 1)), IsOk());
  EXPECT_THAT(Start(1, path_), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(path_)));
}

TEST_F(CheckpointTest, EveryTruncationAndEveryFlippedByteOfTheLogOfRoundsIsDataLoss) {
  ASSERT_THAT(Start(1, path_), IsOk());
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, ReadCheckpoint(path_));
  ASSERT_OK_AND_ASSIGN(const std::string bytes, ReadFile(log_path_));
  const auto read = [&](const std::string& content) {
    EXPECT_THAT(WriteFileAtomically(log_path_, content), IsOk());
    return RoundLog::Read(log_path_, checkpoint.log, [](RoundResult) {});
  };
  ASSERT_THAT(read(bytes), IsOk());
  for (size_t i = 0; i < bytes.size(); i += 7) {
    EXPECT_THAT(read(bytes.substr(0, i)), StatusIs(absl::StatusCode::kDataLoss));
    std::string flipped = bytes;
    flipped[i] ^= 0x20;
    EXPECT_THAT(read(flipped), StatusIs(absl::StatusCode::kDataLoss));
  }
  std::filesystem::remove(log_path_);
  EXPECT_THAT(Start(2, path_), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(log_path_)));
}

TEST_F(CheckpointTest, ALogOfAnotherRunIsDataLoss) {
  ASSERT_THAT(Start(2, path_), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::string bytes, ReadFile(log_path_));
  Remove();
  ASSERT_THAT(Start(2, path_, 1000, /*seed=*/12), IsOk());
  ASSERT_THAT(WriteFileAtomically(log_path_, bytes), IsOk());
  EXPECT_THAT(Start(3, path_, 1000, /*seed=*/12), StatusIs(absl::StatusCode::kDataLoss));
}

// A process that is killed between the log and the checkpoint, or within its write to the log.
TEST_F(CheckpointTest, AppendsThatTheCheckpointDoesNotKnowOfAreCutOff) {
  ASSERT_OK_AND_ASSIGN(const Result undisturbed, Start(4, ""));
  ASSERT_THAT(Start(2, path_), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::string checkpoint, ReadFile(path_));
  ASSERT_OK_AND_ASSIGN(const std::string log, ReadFile(log_path_));
  ASSERT_THAT(Start(3, path_), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::string longer, ReadFile(log_path_));
  ASSERT_EQ(longer.substr(0, log.size()), log);
  for (size_t size = log.size(); size <= longer.size(); size += 11) {
    ASSERT_THAT(WriteFileAtomically(path_, checkpoint), IsOk());
    ASSERT_THAT(WriteFileAtomically(log_path_, longer.substr(0, size)), IsOk());
    ASSERT_OK_AND_ASSIGN(const Result resumed, Start(4, path_));
    ExpectSame(resumed, undisturbed);
  }
}

TEST_F(CheckpointTest, AnOldLogWithoutItsCheckpointIsReplaced) {
  ASSERT_THAT(Start(3, path_), IsOk());
  std::filesystem::remove(path_);
  ASSERT_OK_AND_ASSIGN(const Result again, Start(2, path_));
  ASSERT_OK_AND_ASSIGN(const Result undisturbed, Start(2, ""));
  ExpectSame(again, undisturbed);
}

TEST_F(CheckpointTest, TheCheckpointDoesNotGrowWithTheRoundsAndTheLogGrowsByOneRoundEach) {
  std::vector<uintmax_t> sizes, log_sizes;
  for (const int64_t rounds : {2, 3, 4, 5}) {
    ASSERT_THAT(Start(rounds, path_), IsOk());
    sizes.push_back(std::filesystem::file_size(path_));
    log_sizes.push_back(std::filesystem::file_size(log_path_));
  }
  EXPECT_LT(sizes[3], sizes[0] + 16);  // the digits of its numbers
  EXPECT_NEAR(static_cast<double>(log_sizes[3] - log_sizes[2]),
              static_cast<double>(log_sizes[1] - log_sizes[0]), 16);
}

TEST_F(CheckpointTest, AllRoundsCanBeReadBack) {
  ASSERT_OK_AND_ASSIGN(const Result result, Start(5, path_));
  std::vector<int64_t> numbers;
  ASSERT_THAT(ReadCheckpointRounds(path_,
                                   [&](const RoundResult& round) {
                                     numbers.push_back(round.number);
                                     EXPECT_EQ(round.train_metrics,
                                               result.rounds[round.number].train_metrics);
                                   }),
              IsOk());
  EXPECT_THAT(numbers, ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(ReadCheckpointRounds(path_ + "-none", [](const RoundResult&) {}),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(CheckpointTest, AResumedRunThatNeverLearntIsFailedPrecondition) {
  grid_.nodes.clear();
  for (const uint64_t id : {2, 3}) {
    grid_.AddNode(id, [](const Message&) { return absl::InternalError("broken"); });
  }
  for (const int64_t rounds : {1, 1, 2}) {
    EXPECT_THAT(Start(rounds, path_),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         HasSubstr(rounds == 1 ? "in 1 round:" : "in 2 rounds:")));
  }
}

TEST_F(CheckpointTest, ACheckpointInAnotherFloatTypeIsResumedInThatOfTheRun) {
  ASSERT_THAT(Start(1, path_), IsOk());
  ASSERT_OK_AND_ASSIGN(Checkpoint checkpoint, ReadCheckpoint(path_));
  const Array w = *checkpoint.arrays.Find("w");
  checkpoint.arrays.Set("w", Array::FromDoubles({3}, w.ToDoubles()));
  ASSERT_THAT(WriteCheckpoint(path_, checkpoint), IsOk());
  ASSERT_OK_AND_ASSIGN(const Result resumed, Start(3, path_));
  ASSERT_OK_AND_ASSIGN(const Result undisturbed, Start(3, ""));
  ExpectSame(resumed, undisturbed);
}

TEST_F(CheckpointTest, EveryDTypeAndShapeComesBack) {
  Checkpoint checkpoint = {.seed = 3, .last_round = 2};
  for (int i = 0; i <= static_cast<int>(DType::kFloat64); ++i) {
    const auto dtype = static_cast<DType>(i);
    std::string bytes(6 * ElementSize(dtype), '\1');
    checkpoint.arrays.Set(std::string(DTypeName(dtype)),
                          *Array::Create(dtype, {3, 2}, std::move(bytes)));
  }
  checkpoint.arrays.Set("scalar", *Array::Create(DType::kInt8, {}, "x"));
  checkpoint.arrays.Set("empty", Array());
  checkpoint.strategy_state.Set("scalar", Array::FromDoubles({1}, {{1.5}}));
  ASSERT_OK_AND_ASSIGN(const Checkpoint read, DecodeCheckpoint(EncodeCheckpoint(checkpoint)));
  EXPECT_EQ(read.arrays, checkpoint.arrays);
  EXPECT_EQ(read.strategy_state, checkpoint.strategy_state);
  EXPECT_EQ(read.seed, 3);
  EXPECT_EQ(read.last_round, 2);
}

TEST_F(CheckpointTest, ABodyThatLacksARecordIsDataLoss) {
  EXPECT_THAT(DecodeCheckpointBody(""), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(DecodeCheckpointBody("\xff\xff"), StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(CheckpointTest, AFileThatCannotBeWrittenEndsTheRun) {
  EXPECT_THAT(Start(1, "/nowhere/at/all"), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace fedumm
