#include "fedumm/model/partition.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "model/data/numpy_random.h"
#include "tests/model/data/test_files.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::ReadTestJson;
using ::fedumm::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Shards = std::vector<std::vector<int64_t>>;

std::vector<std::string> ShortLabels(int64_t n) {
  const std::vector<std::string> words = {"yes", "no", "2", "red", "left"};
  std::vector<std::string> labels;
  for (int64_t i = 0; i < n; ++i) labels.push_back(i % 3 == 0 ? "yes" : words[7 * i % 5]);
  return labels;
}

std::vector<std::string> TailLabels(int64_t n) {
  std::vector<std::string> labels;
  for (int64_t i = 0; i < n; ++i) {
    labels.push_back(absl::StrCat("word", static_cast<int64_t>(std::pow(i, 0.7))));
  }
  return labels;
}

std::vector<size_t> Sizes(const Shards& shards) {
  std::vector<size_t> sizes;
  for (const auto& shard : shards) sizes.push_back(shard.size());
  return sizes;
}

void ExpectEveryIndexOnce(const Shards& shards, int64_t n) {
  std::vector<int64_t> all;
  for (const auto& shard : shards) all.insert(all.end(), shard.begin(), shard.end());
  std::ranges::sort(all);
  std::vector<int64_t> expected(static_cast<size_t>(n));
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(all, expected);
}

double WorstRelativeError(const std::vector<double>& got, const std::vector<double>& expected) {
  double worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    worst =
        std::max(worst, std::abs(got[i] - expected[i]) / std::max(std::abs(expected[i]), 1e-300));
  }
  return worst;
}

TEST(NumpyRandom, EqualsNumpysGenerator) {
  const nlohmann::json golden = ReadTestJson("partition/partition_golden.json");
  for (const nlohmann::json& g : golden["generator"]) {
    SCOPED_TRACE(g["seed"].dump());
    NumpyRandom random(g["seed"].get<uint64_t>());
    for (const nlohmann::json& word : g["uint64"]) {
      EXPECT_EQ(std::to_string(random.Next64()), word.get<std::string>());
    }
    const auto draw = [&](const std::string& name, auto next) {
      const auto expected = g[name].get<std::vector<double>>();
      std::vector<double> got;
      for (size_t i = 0; i < expected.size(); ++i) got.push_back(next());
      return WorstRelativeError(got, expected);
    };
    EXPECT_EQ(draw("uniform", [&] { return random.Uniform(); }), 0);
    EXPECT_EQ(draw("exponential", [&] { return random.Exponential(); }), 0);
    EXPECT_EQ(draw("normal", [&] { return random.Normal(); }), 0);
    EXPECT_EQ(draw("gamma_0.05", [&] { return random.Gamma(0.05); }), 0);
    EXPECT_EQ(draw("gamma_0.5", [&] { return random.Gamma(0.5); }), 0);
    EXPECT_EQ(draw("gamma_1.0", [&] { return random.Gamma(1.0); }), 0);
    EXPECT_EQ(draw("gamma_2.5", [&] { return random.Gamma(2.5); }), 0);
    for (const char* const alpha : {"0.01", "0.05", "0.1", "0.5", "1.0", "3.0"}) {
      const std::vector<double> alphas(5, std::stod(alpha));
      for (const nlohmann::json& row : g[absl::StrCat("dirichlet_", alpha)]) {
        const auto expected = row.get<std::vector<double>>();
        EXPECT_EQ(WorstRelativeError(random.Dirichlet(alphas), expected), 0) << alpha;
      }
    }
    std::vector<int64_t> values(50);
    std::iota(values.begin(), values.end(), 0);
    random.Shuffle(values);
    EXPECT_EQ(values, g["shuffled"].get<std::vector<int64_t>>());
  }
}

TEST(Partition, CompatSchemesMakeThePythonIndexLists) {
  const nlohmann::json golden = ReadTestJson("partition/partition_golden.json");
  ASSERT_EQ(golden["cases"].size(), 288);
  for (const nlohmann::json& c : golden["cases"]) {
    const bool flower = c["scheme"] == "flower";
    PartitionOptions options = {
        .scheme = flower ? PartitionScheme::kFlowerCompat : PartitionScheme::kNvflareCompat,
        .num_clients = c["k"],
        .alpha = c["alpha"],
        .seed = c["seed"]};
    if (flower) {
      options.min_size = c["min"];
      options.shuffle = c["shuffle"];
      options.self_balancing = c["balance"];
    }
    const auto labels = c["labels"] == "short" ? ShortLabels(c["n"]) : TailLabels(c["n"]);
    const absl::StatusOr<Shards> shards = Partition(options, labels);
    if (c["shards"].is_null()) {
      EXPECT_THAT(shards, StatusIs(absl::StatusCode::kFailedPrecondition));
    } else {
      ASSERT_THAT(shards, IsOk());
      EXPECT_EQ(*shards, c["shards"].get<Shards>()) << c.dump().substr(0, 200);
    }
  }
}

TEST(Partition, CompatSchemesMakeThePublishedVectorOfSeed42) {
  const std::vector<std::string> labels = ShortLabels(40);
  PartitionOptions options = {
      .scheme = PartitionScheme::kNvflareCompat, .num_clients = 3, .alpha = 0.5, .seed = 42};
  ASSERT_OK_AND_ASSIGN(Shards shards, Partition(options, labels));
  EXPECT_THAT(shards[0], ElementsAre(2, 8, 11, 17, 22, 37));
  EXPECT_THAT(shards[2], ElementsAre(0, 1, 7, 13, 21, 23, 28, 34, 39));
  ExpectEveryIndexOnce(shards, 40);

  options.scheme = PartitionScheme::kFlowerCompat;
  options.min_size = 5;
  options.shuffle = false;
  ASSERT_OK_AND_ASSIGN(shards, Partition(options, labels));
  EXPECT_THAT(shards[0], ElementsAre(1, 2, 7, 17, 22, 8));
  EXPECT_THAT(shards[2], ElementsAre(31, 37, 23, 28, 38, 34, 35, 36, 39));
  options.shuffle = true;
  ASSERT_OK_AND_ASSIGN(shards, Partition(options, labels));
  EXPECT_THAT(shards[0], ElementsAre(2, 22, 17, 7, 1, 8));
  EXPECT_THAT(shards[2], ElementsAre(35, 31, 23, 39, 28, 38, 37, 34, 36));
}

TEST(Partition, NvflareCompatWithoutAlphaDealsRoundRobin) {
  ASSERT_OK_AND_ASSIGN(
      const Shards shards,
      Partition({.scheme = PartitionScheme::kNvflareCompat, .num_clients = 3, .alpha = 0},
                ShortLabels(7)));
  EXPECT_EQ(shards, (Shards{{0, 3, 6}, {1, 4}, {2, 5}}));
}

TEST(Partition, UnbiasedCountsAreTheWorkedExamples) {
  const std::vector<double> half = {.5, .25, .25};
  EXPECT_THAT(UnbiasedCounts(half, 1, 0), ElementsAre(0, 0, 1));
  EXPECT_THAT(UnbiasedCounts(half, 1, .25), ElementsAre(0, 1, 0));
  EXPECT_THAT(UnbiasedCounts(half, 1, .5), ElementsAre(1, 0, 0));
  const std::vector<double> eighths = {.125, .625, .25};
  EXPECT_THAT(UnbiasedCounts(eighths, 10, 0), ElementsAre(1, 6, 3));
  EXPECT_THAT(UnbiasedCounts(eighths, 10, .5), ElementsAre(1, 7, 2));
  EXPECT_THAT(UnbiasedCounts(eighths, 10, .75), ElementsAre(2, 6, 2));
  const std::vector<double> quarters(4, .25);
  EXPECT_THAT(UnbiasedCounts(quarters, 2, .25), ElementsAre(0, 1, 0, 1));
  EXPECT_THAT(UnbiasedCounts(quarters, 2, .75), ElementsAre(1, 0, 1, 0));
}

TEST(Partition, DirichletDealsEveryIndexOnceAndEqualSeedsAlike) {
  const std::vector<std::string> labels = ShortLabels(300);
  const PartitionOptions options = {.num_clients = 5, .alpha = 0.3, .seed = 7};
  ASSERT_OK_AND_ASSIGN(const Shards shards, Partition(options, labels));
  ExpectEveryIndexOnce(shards, 300);
  EXPECT_THAT(Partition(options, labels), testing::IsOkAndHolds(shards));
  PartitionOptions other = options;
  other.seed = 8;
  EXPECT_THAT(Partition(other, labels), testing::IsOkAndHolds(::testing::Ne(shards)));
}

TEST(Partition, DirichletGivesTheLastClientNoMoreOfARareLabelThanTheOthers) {
  std::vector<std::string> labels;
  for (int i = 0; i < 1000; ++i) labels.push_back(absl::StrCat(i));
  double last = 0;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    ASSERT_OK_AND_ASSIGN(const Shards shards,
                         Partition({.num_clients = 8, .alpha = 0.5, .seed = seed}, labels));
    last += static_cast<double>(shards.back().size()) / 40;
  }
  EXPECT_NEAR(last, 125, 10);  // the standard error is 1.7
  // The usual cut, rounded down, gives it every one of them.
  ASSERT_OK_AND_ASSIGN(
      const Shards floored,
      Partition({.scheme = PartitionScheme::kNvflareCompat, .num_clients = 8}, labels));
  EXPECT_EQ(floored.back().size(), 1000);
}

TEST(Partition, SmallAlphaConcentratesLabelsAndLargeAlphaSpreadsThem) {
  const std::vector<std::string> labels(1000, "yes");
  PartitionOptions options = {.num_clients = 4, .alpha = 0.01, .min_size = 0};
  ASSERT_OK_AND_ASSIGN(const Shards skewed, Partition(options, labels));
  EXPECT_GT(std::ranges::max(Sizes(skewed)), 990);
  options.alpha = 1e5;
  ASSERT_OK_AND_ASSIGN(const Shards even, Partition(options, labels));
  EXPECT_THAT(Sizes(even),
              ::testing::Each(::testing::AllOf(::testing::Gt(240), ::testing::Lt(260))));
}

TEST(Partition, ReportsTheSizesWhenNoDrawReachesTheMinimum) {
  EXPECT_THAT(Partition({.num_clients = 4, .alpha = 0.01, .min_size = 20, .max_redraws = 3},
                        std::vector<std::string>(100, "yes")),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("sizes were ")));
}

TEST(Partition, DrawsAgainUntilEveryClientHasTheMinimum) {
  const std::vector<std::string> labels = ShortLabels(60);
  const PartitionOptions options = {
      .num_clients = 4, .alpha = 0.3, .min_size = 8, .max_redraws = 1000};
  ASSERT_OK_AND_ASSIGN(const Shards shards, Partition(options, labels));
  EXPECT_THAT(Sizes(shards), ::testing::Each(::testing::Ge(8)));
}

TEST(Partition, IidSizesDifferByOneAtMost) {
  ASSERT_OK_AND_ASSIGN(
      const Shards shards,
      Partition({.scheme = PartitionScheme::kIid, .num_clients = 3}, ShortLabels(11)));
  EXPECT_THAT(Sizes(shards), ElementsAre(4, 4, 3));
  ExpectEveryIndexOnce(shards, 11);
}

TEST(Partition, RefusesOptionsThatCannotHold) {
  const std::vector<std::string> labels = ShortLabels(10);
  constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(Partition({.num_clients = 0}, labels), StatusIs(kInvalid));
  EXPECT_THAT(Partition({.num_clients = 11}, labels), StatusIs(kInvalid, HasSubstr("11 and 10")));
  EXPECT_THAT(Partition({.num_clients = 2, .alpha = 0}, labels), StatusIs(kInvalid));
  EXPECT_THAT(Partition({.num_clients = 2, .alpha = NAN}, labels), StatusIs(kInvalid));
  EXPECT_THAT(Partition({.num_clients = 2, .min_size = -1}, labels), StatusIs(kInvalid));
}

}  // namespace
}  // namespace fedumm::model
