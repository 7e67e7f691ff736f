// LoraGradSBCuda on the emulated machine.
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "fedumm/kernels.h"
#include "tests/cuda/gradient_fixture.h"

namespace fedumm::kernels {
namespace {

struct Kernel {
  static absl::Status Call(Operands& operands) { return operands.GradSB(); }
  static void Expect(Operands& operands, double limit) { operands.ExpectGradSB(limit); }
  static std::vector<uint8_t> Bits(const Operands& operands, size_t segment) {
    return operands.GradSBOf(segment);
  }
};
class GradSBTest : public GradientTest<Kernel> {};

TEST_F(GradSBTest, IntegersAreExactAtTheEdgesOfTilesOfRows) {
  for (const int64_t rows : {1, 15, 16, 17, 127, 128, 129, 255, 256, 257, 513})
    RunAllTypes({.n = {40}, .segments = {{rows, {8}}}}, absl::StrCat("rows ", rows));
}

TEST_F(GradSBTest, IntegersAreExactAtTheEdgesOfTilesOfColumns) {
  for (const int64_t n : {1, 7, 31, 32, 33, 63, 64, 65, 511, 512, 513, 1100})
    RunAllTypes({.n = {n}, .segments = {{35, {8}}}, .pad = 8}, absl::StrCat("n ", n));
}

TEST_F(GradSBTest, IntegersAreExactForEveryRank) {
  for (const int64_t rank : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 129, 256})
    RunAllTypes({.n = {70}, .segments = {{130, {rank}}}, .pad = rank % 2 == 0 ? 8 : 0},
                absl::StrCat("rank ", rank));
}

TEST_F(GradSBTest, PaddedOddAndUnalignedRowsAreExact) {
  for (const int64_t odd : {0, 1, 2, 8}) {
    for (const int64_t first : {0, 1, 4}) {
      RunAllTypes(
          {.n = {75, 24}, .segments = {{70, {5, 16}}}, .pad = 8, .odd = odd, .first = first},
          absl::StrCat("odd ", odd, " first ", first));
    }
  }
}

TEST_F(GradSBTest, PartsOfManyRowsAndColumnsAreSummed) {
  Run({.n = {1100}, .segments = {{600, {16}}}, .pad = 8});
  RunAllTypes({.n = {530}, .segments = {{270, {33}}}, .pad = 8, .add = true}, "r33, add");
  Run({.n = {8200}, .segments = {{3, {4}}}, .pad = 8});
}

TEST_F(GradSBTest, GroupsOfUpToFourModulesAreExact) {
  RunAllTypes({.n = {64}, .segments = {{20, {4}}, {40, {6}}}}, "1");
  RunAllTypes({.n = {64, 24}, .segments = {{20, {4, 8}}, {40, {6, 3}}}}, "2");
  RunAllTypes({.n = {64, 24, 8}, .segments = {{20, {4, 8, 1}}, {40, {6, 3, 17}}}, .add = true},
              "3");
  RunAllTypes({.n = {64, 24, 8, 520}, .segments = {{20, {4, 0, 1, 9}}, {40, {6, 3, 17, 40}}}}, "4");
}

TEST_F(GradSBTest, ManySegmentsOfUnequalRanksAndEmptyOnesAreExact) {
  Batch batch = {.n = {40, 17}, .pad = 8};
  const int64_t ranks[] = {4, 16, 0, 9, 33, 1, 8};
  for (int64_t i = 0; i < 140; ++i)  // more than a launch takes
    batch.segments.push_back({i % 5 == 3 ? 0 : 1 + i * 7 % 19, {ranks[i % 7], ranks[i % 5]}});
  Run(batch);
  batch.segments.resize(20);
  batch.add = true;
  RunAllTypes(batch, "add");
}

TEST_F(GradSBTest, EmptyProblemsWriteZeros) {
  RunAllTypes({.n = {12}, .segments = {{0, {4}}}}, "no rows");
  RunAllTypes({.n = {0}, .segments = {{9, {4}}}}, "no columns");
  RunAllTypes({.n = {12}, .segments = {{9, {0}}}}, "no rank");
  RunAllTypes({.n = {12}}, "no segments");
}

TEST_F(GradSBTest, AGradientThatIsNotAskedForIsNotWritten) {
  RunAllTypes({.n = {40, 700}, .segments = {{20, {4, 8}}, {300, {6, 3}}}, .without = {0, 3}}, "");
}

TEST_F(GradSBTest, DropoutScalesDsAlone) {
  RunAllTypes({.n = {40}, .segments = {{20, {4}}}, .dropout = 0.5}, "");
}

TEST_F(GradSBTest, RandomOperandsAreWithinTheGates) {
  for (const DType dtype : kTypes) {
    SCOPED_TRACE(static_cast<int>(dtype));
    Run({.dtype = dtype,
         .n = {700, 130},
         .segments = {{300, {16, 33}}, {77, {64, 7}}},
         .dropout = 0.25,
         .pad = 8,
         .exact = false});
  }
}

TEST_F(GradSBTest, TwoRunsInAnyScheduleHaveEqualBits) {
  ExpectEqualBitsInAnySchedule(
      {.n = {530, 40}, .segments = {{260, {16, 33}}, {20, {3, 64}}}, .pad = 8, .exact = false});
}

TEST_F(GradSBTest, ASegmentHasTheSameBitsAloneAsInABatch) {
  ExpectASegmentsBitsAlone({.n = {530, 40},
                            .segments = {{150, {4, 64}}, {0, {8, 8}}, {300, {16, 5}}, {9, {40, 0}}},
                            .pad = 8,
                            .exact = false});
}

// Nothing in these kernels is for 9.0 alone, but their PTX is compiled for it.
TEST_F(GradSBTest, TheCodeOf90ComputesTheSame) {
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

TEST_F(GradSBTest, AlignedOperandsAreReadWithoutConflictsOrWaste) {
  for (const int64_t rank : {16, 32, 64}) {
    cuda_machine::Options options;
    options.statistics = true;
    cuda_machine::SetOptions(options);
    Run({.n = {1024}, .segments = {{256, {rank}}}});
    const cuda_machine::Statistics statistics = cuda_machine::TakeStatistics();
    EXPECT_EQ(statistics.Ratio(true, "ldmatrix"), 1) << statistics.ToString();
    EXPECT_EQ(statistics.Ratio(true, "cp"), 1) << statistics.ToString();
    EXPECT_LE(statistics.Ratio(false), 1.15) << statistics.ToString();
  }
}

TEST_F(GradSBTest, OperandsAreChecked) {
  Operands operands({.n = {600}, .segments = {{300, {4}}}});
  const LoraProblem& problem = operands.problem();
  std::vector<float*> db = {nullptr};
  const auto code = [&](absl::Span<const ConstMatrix> dy, ConstMatrix s, Matrix ds,
                        absl::Span<float* const> gradients, void* workspace) {
    return LoraGradSBCuda(problem, dy, s, ds, gradients, false, workspace, nullptr).code();
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  const Matrix s = operands.s().matrix();
  const Matrix ds = operands.ds().matrix();
  float* const workspace = operands.workspace();
  EXPECT_EQ(code({}, s, ds, db, workspace), invalid);
  EXPECT_EQ(code(operands.dy(), {}, ds, db, workspace), invalid);
  EXPECT_EQ(code(operands.dy(), s, {ds.data, 3}, db, workspace), invalid);
  EXPECT_EQ(code(operands.dy(), s, ds, {}, workspace), invalid);
  EXPECT_EQ(code(operands.dy(), s, ds, db, nullptr), invalid);
  EXPECT_EQ(code({{{nullptr, 600}}}, s, ds, db, workspace), invalid);
  EXPECT_EQ(code(operands.dy(), s, ds, db, workspace), absl::StatusCode::kOk);
}

}  // namespace
}  // namespace fedumm::kernels
