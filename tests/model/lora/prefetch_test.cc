#include "model/train/prefetch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::IsOkAndHolds;
using ::fedumm::testing::StatusIs;
using ::testing::HasSubstr;

using Numbers = std::vector<int>;

TEST(PrefetcherTest, ResultsComeInOrderAndEnd) {
  int n = 0;
  Prefetcher<Numbers> numbers([&]() -> absl::StatusOr<Numbers> { return Numbers{n++}; }, 100, 3);
  for (int i = 0; i < 100; ++i) EXPECT_THAT(numbers.Next(), IsOkAndHolds(Numbers{i}));
  EXPECT_THAT(numbers.Next(), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_EQ(n, 100);
}

TEST(PrefetcherTest, ItIsNeverFurtherAheadThanItsDepth) {
  std::atomic<int> taken = 0, made = 0, furthest = 0;
  {
    Prefetcher<Numbers> numbers(
        [&]() -> absl::StatusOr<Numbers> {
          furthest = std::max(furthest.load(), ++made - taken.load());
          return Numbers{};
        },
        50, 2);
    for (int i = 0; i < 30; ++i) {
      ++taken;  // before, so that what is made for this call does not count
      EXPECT_THAT(numbers.Next(), IsOk());
    }
  }
  EXPECT_LE(furthest, 2);
  EXPECT_LE(made, 32);
}

TEST(PrefetcherTest, AnErrorComesInItsPlaceAndIsTheLastResult) {
  int n = 0;
  Prefetcher<Numbers> numbers(
      [&]() -> absl::StatusOr<Numbers> {
        if (n == 2) return absl::NotFoundError("no picture");
        return Numbers{n++};
      },
      100, 4);
  EXPECT_THAT(numbers.Next(), IsOkAndHolds(Numbers{0}));
  EXPECT_THAT(numbers.Next(), IsOkAndHolds(Numbers{1}));
  EXPECT_THAT(numbers.Next(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("no picture")));
  EXPECT_THAT(numbers.Next(), StatusIs(absl::StatusCode::kOutOfRange));
}

TEST(PrefetcherTest, AnExceptionIsAnInternalError) {
  Prefetcher<Numbers> numbers(
      []() -> absl::StatusOr<Numbers> { throw std::runtime_error("cannot read"); }, 5, 1);
  EXPECT_THAT(numbers.Next(), StatusIs(absl::StatusCode::kInternal, HasSubstr("cannot read")));
  Prefetcher<Numbers> odd([]() -> absl::StatusOr<Numbers> { throw 1; }, 5, 1);
  EXPECT_THAT(odd.Next(), StatusIs(absl::StatusCode::kInternal));
}

TEST(PrefetcherTest, DestructionWaitsForTheThread) {
  std::atomic<bool> inside = false, left = false, leave = false;
  std::thread releases;
  {
    Prefetcher<Numbers> numbers(
        [&]() -> absl::StatusOr<Numbers> {
          inside = true;
          while (!leave) std::this_thread::yield();
          left = true;
          return Numbers{};
        },
        5, 1);
    while (!inside) std::this_thread::yield();
    releases = std::thread([&] { leave = true; });
  }
  EXPECT_TRUE(left);
  releases.join();
}

TEST(PrefetcherTest, WithoutCallsNothingIsMade) {
  Prefetcher<Numbers> numbers([]() -> absl::StatusOr<Numbers> { return Numbers{}; }, 0, 1);
  EXPECT_THAT(numbers.Next(), StatusIs(absl::StatusCode::kOutOfRange));
}

}  // namespace
}  // namespace fedumm::model
