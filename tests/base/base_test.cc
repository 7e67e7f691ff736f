#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "base/file.h"
#include "base/random.h"
#include "base/sha256.h"
#include "tests/testing/status_matchers.h"

namespace fedumm {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::IsOkAndHolds;
using ::fedumm::testing::StatusIs;

TEST(Sha256, MatchesTheStandardsVectors) {
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(File, WriteReplacesTheWholeFileAndLeavesNoTemporary) {
  const std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) / "file_test";
  std::filesystem::create_directories(folder);
  const std::string path = folder / "state";
  ASSERT_THAT(WriteFileAtomically(path, "a longer old content"), IsOk());
  ASSERT_THAT(WriteFileAtomically(path, "new"), IsOk());
  EXPECT_THAT(ReadFile(path), IsOkAndHolds("new"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
}

TEST(File, ReadRefusesAMissingFileALargeFileAndAFolder) {
  const std::string folder = ::testing::TempDir();
  EXPECT_THAT(ReadFile(folder + "/no-such-file"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(ReadFile(folder), StatusIs(absl::StatusCode::kInvalidArgument));
  const std::string path = folder + "/eleven_bytes";
  ASSERT_THAT(WriteFileAtomically(path, "eleven bits"), IsOk());
  EXPECT_THAT(ReadFile(path, 10), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(ReadFile(path, 11), IsOk());
}

TEST(Random, IsTheSameEverywhere) {
  // xoshiro256** seeded by SplitMix64(42), computed independently.
  Random random(42);
  EXPECT_EQ(random.Next(), 1546998764402558742u);
  EXPECT_EQ(random.Next(), 6990951692964543102u);
}

TEST(Random, StreamsOfDifferentKeysDiffer) {
  std::set<uint64_t> first_values;
  for (uint64_t round = 0; round < 30; ++round) {
    for (uint64_t node = 0; node < 30; ++node) {
      first_values.insert(Random(7, {round, node}).Next());
    }
  }
  EXPECT_EQ(first_values.size(), 900u);
}

TEST(Random, NormalHasUnitVariance) {
  Random random(1);
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < 100'000; ++i) {
    const double x = random.Normal();
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / 1e5, 0, 0.02);
  EXPECT_NEAR(squares / 1e5, 1, 0.02);
}

TEST(Random, ShuffleKeepsEveryElement) {
  std::vector<int> values = {1, 2, 3, 4, 5, 6, 7, 8};
  Random random(3);
  random.Shuffle(values);
  EXPECT_THAT(values, ::testing::UnorderedElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
  EXPECT_NE(values, (std::vector<int>{1, 2, 3, 4, 5, 6, 7, 8}));
}

}  // namespace
}  // namespace fedumm
