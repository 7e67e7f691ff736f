// LoraGradACuda on the emulated machine.
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "fedumm/kernels.h"
#include "tests/cuda/gradient_fixture.h"

namespace fedumm::kernels {
namespace {

struct Kernel {
  static absl::Status Call(Operands& operands) { return operands.GradA(); }
  static void Expect(Operands& operands, double limit) { operands.ExpectGradA(limit); }
  static std::vector<uint8_t> Bits(const Operands& operands, size_t segment) {
    return operands.GradAOf(segment);
  }
};
class GradATest : public GradientTest<Kernel> {};

TEST_F(GradATest, IntegersAreExactAtTheEdgesOfTilesOfRows) {
  for (const int64_t rows : {1, 15, 16, 17, 63, 64, 65, 255, 256, 257, 513})
    RunAllTypes({.k = 40, .n = {8}, .segments = {{rows, {8}}}}, absl::StrCat("rows ", rows));
}

TEST_F(GradATest, IntegersAreExactAtTheEdgesOfTilesOfColumns) {
  for (const int64_t k : {1, 7, 31, 32, 33, 63, 64, 65, 127, 128, 129, 260}) {
    for (const double dropout : {0.0, 0.5})
      RunAllTypes({.k = k, .n = {8}, .segments = {{35, {8}}}, .dropout = dropout, .pad = 8},
                  absl::StrCat("k ", k, " dropout ", dropout));
  }
}

TEST_F(GradATest, IntegersAreExactForEveryRank) {
  for (const int64_t rank : {1, 2, 7, 8, 9, 16, 17, 32, 33, 64, 65, 127, 128, 129, 256})
    RunAllTypes({.k = 70, .n = {1}, .segments = {{70, {rank}}}, .pad = rank % 2 == 0 ? 8 : 0},
                absl::StrCat("rank ", rank));
}

TEST_F(GradATest, PaddedOddAndUnalignedRowsAreExact) {
  for (const int64_t odd : {0, 1, 2, 8}) {
    for (const int64_t first : {0, 1, 4}) {
      RunAllTypes({.k = 75,
                   .n = {8, 8},
                   .segments = {{70, {5, 16}}},
                   .dropout = 0.25,
                   .pad = 8,
                   .odd = odd,
                   .first = first},
                  absl::StrCat("odd ", odd, " first ", first));
    }
  }
}

TEST_F(GradATest, ChunksOfManyRowsAreSummed) {
  RunAllTypes({.k = 130, .n = {8}, .segments = {{600, {16}}}, .dropout = 0.5, .pad = 8}, "r16");
  RunAllTypes({.k = 37, .n = {8, 8}, .segments = {{270, {33, 3}}}, .add = true}, "r33, add");
  Run({.k = 12, .n = {8}, .segments = {{2100, {4}}}, .pad = 8});
}

TEST_F(GradATest, GroupsOfUpToFourModulesAreExact) {
  RunAllTypes({.k = 64, .n = {8}, .segments = {{20, {4}}, {40, {6}}}}, "1");
  RunAllTypes({.k = 64, .n = {8, 8}, .segments = {{20, {4, 8}}, {40, {6, 3}}}}, "2");
  RunAllTypes(
      {.k = 64, .n = {8, 8, 8}, .segments = {{20, {4, 8, 1}}, {40, {6, 3, 17}}}, .add = true}, "3");
  RunAllTypes({.k = 64,
               .n = {8, 8, 8, 8},
               .segments = {{20, {4, 0, 1, 9}}, {300, {6, 3, 17, 40}}, {9, {64, 100, 64, 1}}},
               .dropout = 0.5},
              "4");
}

TEST_F(GradATest, ManySegmentsOfUnequalRanksAndEmptyOnesAreExact) {
  Batch batch = {.dtype = DType::kBFloat16, .k = 40, .n = {8, 8}, .dropout = 0.5, .pad = 8};
  const int64_t ranks[] = {4, 16, 0, 9, 33, 1, 8};
  for (int64_t i = 0; i < 140; ++i)  // more than a launch takes
    batch.segments.push_back({i % 5 == 3 ? 0 : 1 + i * 7 % 19, {ranks[i % 7], ranks[i % 5]}});
  Run(batch);
  batch.segments.resize(20);
  batch.add = true;
  RunAllTypes(batch, "add");
}

TEST_F(GradATest, EmptyProblemsWriteZeros) {
  RunAllTypes({.k = 12, .n = {8}, .segments = {{0, {4}}}}, "no rows");
  RunAllTypes({.k = 0, .n = {8}, .segments = {{9, {4}}}}, "no columns");
  RunAllTypes({.k = 12, .n = {8}, .segments = {{9, {0}}}}, "no rank");
  RunAllTypes({.k = 12, .n = {8}}, "no segments");
}

TEST_F(GradATest, AGradientThatIsNotAskedForIsNotWritten) {
  RunAllTypes({.k = 70, .n = {8, 8}, .segments = {{20, {4, 8}}, {300, {6, 3}}}, .without = {0, 3}},
              "");
}

TEST_F(GradATest, RandomOperandsAreWithinTheGates) {
  for (const DType dtype : kTypes) {
    SCOPED_TRACE(static_cast<int>(dtype));
    Run({.dtype = dtype,
         .k = 200,
         .n = {8, 8},
         .segments = {{300, {16, 33}}, {77, {64, 7}}},
         .dropout = 0.25,
         .pad = 8,
         .exact = false});
  }
}

TEST_F(GradATest, TwoRunsInAnyScheduleHaveEqualBits) {
  ExpectEqualBitsInAnySchedule({.k = 150,
                                .n = {8, 8},
                                .segments = {{270, {16, 33}}, {40, {3, 64}}},
                                .dropout = 0.25,
                                .pad = 8,
                                .exact = false});
}

TEST_F(GradATest, ASegmentHasTheSameBitsAloneAsInABatch) {
  ExpectASegmentsBitsAlone({.k = 70,
                            .n = {8, 8},
                            .segments = {{150, {4, 64}}, {0, {8, 8}}, {300, {16, 5}}, {9, {40, 0}}},
                            .dropout = 0.25,
                            .pad = 8,
                            .exact = false});
}

// Nothing in these kernels is for 9.0 alone, but their PTX is compiled for it.
TEST_F(GradATest, TheCodeOf90ComputesTheSame) {
  cuda_machine::SetDevice(9);
  for (const int64_t rank : {8, 33, 64}) {
    RunAllTypes({.k = 70,
                 .n = {75, 24},
                 .segments = {{130, {rank, 5}}, {20, {3, rank}}},
                 .dropout = 0.5,
                 .pad = 8},
                absl::StrCat("rank ", rank));
  }
}

TEST_F(GradATest, AlignedOperandsAreReadWithoutConflictsOrWaste) {
  for (const int64_t rank : {16, 32, 64, 128}) {
    cuda_machine::Options options;
    options.statistics = true;
    cuda_machine::SetOptions(options);
    Run({.k = 512, .n = {8}, .segments = {{512, {rank}}}, .dropout = 0.5});
    const cuda_machine::Statistics statistics = cuda_machine::TakeStatistics();
    EXPECT_EQ(statistics.Ratio(true, "ldmatrix"), 1) << statistics.ToString();
    EXPECT_EQ(statistics.Ratio(true, "ld"), 1) << statistics.ToString();
    EXPECT_EQ(statistics.Ratio(true, "cp"), 1) << statistics.ToString();
    EXPECT_LE(statistics.Ratio(false), 1.15) << statistics.ToString();
  }
}

TEST_F(GradATest, OperandsAreChecked) {
  Operands operands({.k = 600, .n = {8}, .segments = {{300, {4}}}, .dropout = 0.5});
  const LoraProblem& problem = operands.problem();
  cuda_machine::Buffer<float> gradient(4 * 600, "dA");
  std::vector<float*> da = {gradient.data()};
  const auto code = [&](ConstMatrix ds, ConstMatrix x, const uint32_t* kept,
                        absl::Span<float* const> gradients, void* workspace) {
    return LoraGradACuda(problem, ds, x, kept, gradients, false, workspace, nullptr).code();
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  const Matrix x = operands.x().matrix();
  const Matrix ds = operands.ds().matrix();
  float* const workspace = operands.workspace();
  EXPECT_EQ(code({}, x, operands.kept(), da, workspace), invalid);
  EXPECT_EQ(code(ds, {x.data, 599}, operands.kept(), da, workspace), invalid);
  EXPECT_EQ(code(ds, x, nullptr, da, workspace), invalid);
  EXPECT_EQ(code(ds, x, operands.kept(), {}, workspace), invalid);
  EXPECT_EQ(code(ds, x, operands.kept(), da, nullptr), invalid);
}

}  // namespace
}  // namespace fedumm::kernels
