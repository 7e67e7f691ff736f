// LoraGradXCuda on the emulated machine: dX = the sum over the group of dY W + dropout(dS A).
#include "tests/cuda/lora_operands.h"

namespace fedumm::kernels {
namespace {

class GradXTest : public TargetTest {};
INSTANTIATE_TEST_SUITE_P(Targets, GradXTest, testing::ValuesIn(kTargets), NameOf);
using cuda_machine::Buffer;

struct GradX {
  explicit GradX(const LoraShape& shape)
      : operands(shape),
        words(DropoutWords(shape.k)),
        kept(static_cast<size_t>(LoraRows(operands.problem()) * words), "kept") {
    const int64_t rows = LoraRows(operands.problem());
    for (const int64_t n : shape.n) dy.push_back(operands.Add("dY", rows, n));
    ds = operands.AddS("dS");
    dx = operands.Empty("dX", rows, shape.k);
    kept.Fill([&](size_t) { return static_cast<uint32_t>(operands.random().Next()); });
    kept.ReadOnly();
  }

  void Run() {
    std::vector<ConstMatrix> gradients;
    for (const auto& gradient : dy) gradients.push_back(gradient->matrix());
    dx->Poison();
    const absl::Status status =
        LoraGradXCuda(operands.problem(), gradients, ds->matrix(),
                      operands.shape().dropout > 0 ? kept.data() : nullptr, dx->matrix(), nullptr);
    ASSERT_TRUE(status.ok()) << status;
    const cuda_machine::Report report = cuda_machine::TakeReport();
    ASSERT_TRUE(report.ok()) << operands.shape().ToString() << "\n" << report.ToString();
  }

  void Check() const {
    const LoraShape& shape = operands.shape();
    const LoraProblem problem = operands.problem();
    Comparison comparison(*dx, GateOf(shape), shape.ToString());
    int64_t row = 0;
    for (size_t i = 0; i < shape.segments.size(); ++i) {
      for (const int64_t end = row + shape.segments[i].rows; row < end; ++row) {
        for (int64_t j = 0; j < shape.k; ++j) {
          double large = 0, low_rank = 0;
          for (size_t g = 0; g < dy.size(); ++g) {
            for (int64_t t = 0; t < shape.n[g]; ++t)
              large += (*dy[g])(row, t) * operands.w(g)(t, j);
            const int64_t column = LoraSColumn(problem, static_cast<int64_t>(g));
            for (int64_t t = 0; t < shape.segments[i].ranks[g]; ++t) {
              low_rank += (*ds)(row, column + t) * operands.a(i, g)(t, j);
            }
          }
          const uint32_t word = kept[static_cast<size_t>(row * words + j / 32)];
          const bool keeps = shape.dropout == 0 || (word >> j % 32 & 1) != 0;
          comparison.Expect(row, j, keeps ? large + low_rank : large);
        }
      }
    }
  }

  LoraOperands operands;
  int64_t words;
  std::vector<std::unique_ptr<DeviceMatrix>> dy;
  std::unique_ptr<DeviceMatrix> ds, dx;
  Buffer<uint32_t> kept;
};

void Expect(const LoraShape& shape) {
  GradX gradient(shape);
  gradient.Run();
  if (testing::Test::HasFatalFailure()) return;
  gradient.Check();
}

TEST_P(GradXTest, TileEdges) {
  const int64_t sizes[][4] = {// m, n, k, r
                              {1, 1, 1, 1},      {63, 33, 64, 8},   {64, 31, 63, 7},
                              {65, 32, 65, 16},  {5, 0, 9, 5},      {5, 0, 9, 0},
                              {40, 97, 129, 65}, {17, 40, 257, 33}, {20, 65, 66, 256}};
  for (size_t i = 0; i < std::size(sizes); ++i) {
    const auto& [m, n, k, r] = sizes[i];
    for (const Layout layout : kLayouts) {
      for (const double dropout : {0.0, 0.25}) {
        LoraShape shape;
        shape.dtype = GetParam().dtype, shape.k = k, shape.n = {n}, shape.segments = {{m, {r}}};
        shape.layout = layout, shape.dropout = dropout, shape.seed = i;
        shape.exact = i % 4 != 3;
        SetSchedule(i);
        Expect(shape);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(GradXTest, LargeTilesOfAGroup) {
  cuda_machine::SetMultiprocessors(1);
  for (const bool exact : {true, false}) {
    LoraShape shape;
    shape.dtype = GetParam().dtype, shape.k = 500, shape.n = {40, 65, 8}, shape.exact = exact;
    shape.segments = {{129, {17, 64, 3}}, {130, {0, 5, 16}}};
    shape.dropout = exact ? 0.5 : 0, shape.seed = 7;
    Expect(shape);
    if (HasFailure()) return;
  }
}

// More segments than a launch takes, some of them empty, with unequal ranks.
TEST_P(GradXTest, ManySegments) {
  LoraShape shape;
  shape.dtype = GetParam().dtype, shape.k = 24, shape.n = {16, 40}, shape.dropout = 0.5;
  for (int64_t i = 0; i < 70; ++i) shape.segments.push_back({i % 4, {i % 5, i % 3 * 9}});
  Expect(shape);
}

TEST_P(GradXTest, RowsOfABatchEqualThoseOfTheirSegmentAlone) {
  LoraShape shape;
  shape.dtype = GetParam().dtype, shape.k = 256, shape.n = {104}, shape.exact = false;
  shape.segments = {{120, {16}}, {0, {3}}, {9, {9}}, {60, {0}}};
  shape.dropout = 0.25;
  cuda_machine::SetMultiprocessors(1);  // large tiles for the batch, others for a short segment
  GradX batch(shape);
  batch.Run();
  const std::vector<uint8_t> first = batch.dx->Contents();
  batch.Run();
  EXPECT_EQ(first, batch.dx->Contents());
  int64_t row = 0;
  for (const LoraSegment& segment : batch.operands.segments()) {
    LoraProblem alone = batch.operands.problem();
    alone.segments = absl::MakeConstSpan(&segment, 1);
    if (segment.rows == 0) continue;
    const auto dx = batch.operands.Empty("dX alone", segment.rows, shape.k);
    const ConstMatrix dy = batch.dy[0]->From(row);
    const absl::Status status =
        LoraGradXCuda(alone, absl::MakeConstSpan(&dy, 1), batch.ds->From(row),
                      batch.kept.data() + row * batch.words, dx->matrix(), nullptr);
    ASSERT_TRUE(status.ok()) << status;
    for (int64_t i = 0; i < segment.rows; ++i, ++row) {
      for (int64_t j = 0; j < shape.k; ++j) {
        ASSERT_EQ(dx->Bits(i, j), batch.dx->Bits(row, j)) << row << ", " << j;
      }
    }
  }
}

TEST_P(GradXTest, AlignedRowsCostNoMoreThanTheirSectorsAndWavefronts) {
  for (const int multiprocessors : {1, 1000}) {  // large and small tiles
    cuda_machine::SetMultiprocessors(multiprocessors);
    cuda_machine::Options options;
    options.statistics = true;
    cuda_machine::SetOptions(options);
    LoraShape shape;
    shape.layout = Layout::kDense;  // rows are whole sectors
    shape.dtype = GetParam().dtype, shape.k = 256, shape.n = {112}, shape.segments = {{128, {16}}};
    GradX gradient(shape);
    gradient.Run();
    ExpectBudgets();
  }
}

TEST(GradXArguments, DropoutWithoutItsMaskIsRejected) {
  LoraShape shape;
  shape.k = 8, shape.n = {8}, shape.segments = {{4, {2}}}, shape.dropout = 0.5;
  GradX gradient(shape);
  const ConstMatrix dy = gradient.dy[0]->matrix();
  const absl::Status status =
      LoraGradXCuda(gradient.operands.problem(), absl::MakeConstSpan(&dy, 1), gradient.ds->matrix(),
                    nullptr, gradient.dx->matrix(), nullptr);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace fedumm::kernels
