#include "model/tasks/batches.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

std::vector<int64_t> Take(Batches& batches, int64_t count) { return batches.Next(count).value(); }

TEST(BatchesTest, APassHasEachExampleOnce) {
  Batches batches({5, 6, 7, 8, 9});
  batches.Seed(1);
  EXPECT_EQ(batches.size(), 5);
  EXPECT_THAT(Take(batches, 5), UnorderedElementsAre(5, 6, 7, 8, 9));
  std::vector<int64_t> second = Take(batches, 3);
  for (const int64_t i : Take(batches, 2)) second.push_back(i);
  EXPECT_THAT(second, UnorderedElementsAre(5, 6, 7, 8, 9));
}

TEST(BatchesTest, BatchesByLengthHoldNeighboursAndAllExamples) {
  std::vector<int64_t> shard;
  for (int64_t i = 0; i < 40; ++i) shard.push_back(i);
  const auto length = [](int64_t example) { return (example * 7) % 40; };
  Batches batches(shard);
  batches.SortByLength(10, length);
  batches.Seed(1);
  std::vector<int64_t> all, shortest;
  for (int i = 0; i < 10; ++i) {
    const std::vector<int64_t> batch = Take(batches, 4);
    std::vector<int64_t> lengths;
    for (const int64_t example : batch) lengths.push_back(length(example));
    const auto [low, high] = std::minmax_element(lengths.begin(), lengths.end());
    EXPECT_EQ(*high - *low, 3);  // of a whole pass: each batch has four neighbours
    shortest.push_back(*low);
    all.insert(all.end(), batch.begin(), batch.end());
  }
  EXPECT_FALSE(std::is_sorted(shortest.begin(), shortest.end()));
  std::sort(all.begin(), all.end());
  EXPECT_EQ(all, shard);
  batches.Seed(1);
  const std::vector<int64_t> first = Take(batches, 4);
  batches.Seed(1);
  EXPECT_EQ(Take(batches, 4), first);
  EXPECT_EQ(Take(batches, 3).size(), 3);  // another size
}

TEST(BatchesTest, ABatchLargerThanTheShardSpansPasses) {
  Batches batches({1, 2});
  batches.Seed(1);
  std::vector<int64_t> batch = Take(batches, 6);
  EXPECT_EQ(std::count(batch.begin(), batch.end(), 1), 3);
}

TEST(BatchesTest, TheOrderDependsOnTheSeedAndTheSetOfExamples) {
  std::vector<int64_t> forward, backward;
  for (int64_t i = 0; i < 20; ++i) {
    forward.push_back(i);
    backward.push_back(19 - i);
  }
  Batches a(forward), b(backward);
  a.Seed(3);
  b.Seed(3);
  Take(b, 7);
  b.Seed(3);
  const std::vector<int64_t> first = Take(a, 20);
  EXPECT_EQ(first, Take(b, 20));
  a.Seed(4);
  EXPECT_NE(first, Take(a, 20));
}

TEST(BatchesTest, GroupsThatTakeTurnsAreSeenEquallyOften) {
  Batches batches({{0}, {}, {10, 11, 12, 13, 14, 15, 16, 17}}, GroupOrder::kTakeTurns);
  batches.Seed(1);
  EXPECT_EQ(batches.size(), 9);
  const std::vector<int64_t> batch = Take(batches, 16);
  EXPECT_EQ(std::count(batch.begin(), batch.end(), 0), 8);
}

TEST(BatchesTest, MixedGroupsAreOnePass) {
  Batches batches({{0}, {}, {10, 11, 12}}, GroupOrder::kMixed);
  batches.Seed(1);
  EXPECT_THAT(Take(batches, 4), UnorderedElementsAre(0, 10, 11, 12));
  Batches plain({0, 10, 11, 12});
  plain.Seed(1);
  batches.Seed(1);
  EXPECT_EQ(Take(plain, 9), Take(batches, 9));
}

TEST(BatchesTest, AnEmptyShardAndABatchWithoutExamplesAreErrors) {
  EXPECT_THAT(Batches(std::vector<int64_t>()).Next(1),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(Batches({{}, {}}, GroupOrder::kTakeTurns).Next(1),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(Batches({1}).Next(0), StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace fedumm::model
