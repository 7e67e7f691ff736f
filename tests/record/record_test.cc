#include "fedumm/record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace fedumm {
namespace {

std::vector<std::string> Keys(const MetricRecord& record) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : record) keys.push_back(key);
  return keys;
}

TEST(RecordTest, KeepsTheOrderOfInsertionWhenAValueIsReplaced) {
  MetricRecord record = {{"b", 1.0}, {"a", 2.0}};
  record.Set("b", 3.0);
  EXPECT_THAT(Keys(record), ::testing::ElementsAre("b", "a"));
  EXPECT_EQ(NumberOr(record, "b", 0), 3.0);
}

TEST(RecordTest, ACopySharesItsStorageUntilOneOfBothChanges) {
  MetricRecord record = {{"a", 1.0}};
  MetricRecord copy = record;
  EXPECT_TRUE(copy.SharesStorage(record));
  EXPECT_EQ(copy.storage_id(), record.storage_id());
  copy.Set("a", 2.0);
  EXPECT_FALSE(copy.SharesStorage(record));
  EXPECT_EQ(NumberOr(record, "a", 0), 1.0);
  EXPECT_EQ(NumberOr(copy, "a", 0), 2.0);
}

TEST(RecordTest, TheOriginalChangesWithoutItsCopies) {
  MetricRecord record = {{"a", 1.0}};
  const MetricRecord copy = record;
  record.Set("b", 2.0);
  EXPECT_THAT(Keys(copy), ::testing::ElementsAre("a"));
  EXPECT_THAT(Keys(record), ::testing::ElementsAre("a", "b"));
  EXPECT_FALSE(copy == record);
}

TEST(RecordTest, AMovedFromRecordIsEmptyAndCanBeFilledAgain) {
  MetricRecord record = {{"a", 1.0}};
  const MetricRecord moved = std::move(record);
  EXPECT_TRUE(record.empty());  // NOLINT(bugprone-use-after-move): this is what is tested
  record.Set("b", 2.0);
  EXPECT_THAT(Keys(record), ::testing::ElementsAre("b"));
  EXPECT_THAT(Keys(moved), ::testing::ElementsAre("a"));
}

TEST(RecordTest, CopiesMayBeMadeAndChangedOnSeveralThreads) {
  const MetricRecord record = {{"a", 0.0}};
  std::vector<MetricRecord> results(4);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < results.size(); ++i) {
    threads.emplace_back([&, i] {
      for (int n = 1; n <= 1000; ++n) {
        MetricRecord copy = record;
        copy.Set("a", static_cast<double>(n));
        results[i] = copy;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(NumberOr(record, "a", -1), 0.0);
  for (const MetricRecord& result : results) EXPECT_EQ(NumberOr(result, "a", 0), 1000.0);
}

}  // namespace
}  // namespace fedumm
