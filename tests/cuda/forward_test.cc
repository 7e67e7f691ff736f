// LoraForwardCuda on the emulated machine: y = x Wᵀ + bias + S Bᵀ.
#include "tests/cuda/lora_operands.h"

namespace fedumm::kernels {
namespace {

class ForwardTest : public TargetTest {};
INSTANTIATE_TEST_SUITE_P(Targets, ForwardTest, testing::ValuesIn(kTargets), NameOf);

struct Forward {
  explicit Forward(const LoraShape& shape) : operands(shape) {
    const LoraProblem problem = operands.problem();
    x = operands.Add("x", LoraRows(problem), shape.k);
    s = operands.AddS("S");
    for (const int64_t n : shape.n) y.push_back(operands.Empty("y", LoraRows(problem), n));
  }

  void Run() {
    std::vector<Matrix> results;
    for (const auto& result : y) {
      result->Poison();
      results.push_back(result->matrix());
    }
    const absl::Status status =
        LoraForwardCuda(operands.problem(), x->matrix(), s->matrix(), results, nullptr);
    ASSERT_TRUE(status.ok()) << status;
    const cuda_machine::Report report = cuda_machine::TakeReport();
    ASSERT_TRUE(report.ok()) << operands.shape().ToString() << "\n" << report.ToString();
  }

  void Check() const {
    const LoraShape& shape = operands.shape();
    for (size_t g = 0; g < y.size(); ++g) {
      Comparison comparison(*y[g], GateOf(shape), shape.ToString());
      const int64_t s_column = LoraSColumn(operands.problem(), static_cast<int64_t>(g));
      int64_t row = 0;
      for (size_t i = 0; i < shape.segments.size(); ++i) {
        const DeviceMatrix& b = operands.b(i, g);
        for (const int64_t end = row + shape.segments[i].rows; row < end; ++row) {
          for (int64_t j = 0; j < shape.n[g]; ++j) {
            double want = shape.bias ? (*operands.bias(g))(0, j) : 0;
            for (int64_t t = 0; t < shape.k; ++t) want += (*x)(row, t) * operands.w(g)(j, t);
            for (int64_t t = 0; t < shape.segments[i].ranks[g]; ++t) {
              want += (*s)(row, s_column + t) * b(j, t);
            }
            comparison.Expect(row, j, want);
          }
        }
      }
    }
  }

  LoraOperands operands;
  std::unique_ptr<DeviceMatrix> x, s;
  std::vector<std::unique_ptr<DeviceMatrix>> y;
};

void Expect(const LoraShape& shape) {
  Forward forward(shape);
  forward.Run();
  forward.Check();
}

TEST_P(ForwardTest, TileEdges) {
  const int64_t sizes[][4] = {// m, n, k, r
                              {1, 1, 1, 1},      {63, 64, 31, 8},   {64, 63, 33, 7},
                              {65, 65, 32, 16},  {64, 64, 64, 0},   {5, 9, 0, 5},
                              {5, 9, 0, 0},      {40, 129, 65, 17}, {33, 127, 63, 64},
                              {129, 40, 97, 65}, {20, 66, 95, 256}, {17, 257, 40, 33}};
  for (size_t i = 0; i < std::size(sizes); ++i) {
    const auto& [m, n, k, r] = sizes[i];
    for (const Layout layout : kLayouts) {
      LoraShape shape;
      shape.dtype = GetParam().dtype, shape.k = k, shape.n = {n}, shape.segments = {{m, {r}}};
      shape.layout = layout, shape.bias = i % 2 == 0, shape.seed = i;
      shape.exact = i % 4 != 3;
      SetSchedule(i);
      Expect(shape);
      if (HasFailure()) return;
    }
  }
}

TEST_P(ForwardTest, LargeTilesOfAGroup) {
  cuda_machine::SetMultiprocessors(1);
  for (const bool exact : {true, false}) {
    LoraShape shape;
    shape.dtype = GetParam().dtype, shape.k = 97, shape.n = {250, 265, 256}, shape.exact = exact;
    shape.segments = {{120, {17, 64, 3}}, {130, {0, 5, 16}}};
    shape.bias = true, shape.seed = 7;
    Expect(shape);
    if (HasFailure()) return;
  }
}

// More segments than a launch takes, some of them empty, with unequal ranks.
TEST_P(ForwardTest, ManySegments) {
  LoraShape shape;
  shape.dtype = GetParam().dtype, shape.k = 24, shape.n = {16, 40};
  for (int64_t i = 0; i < 70; ++i) shape.segments.push_back({i % 4, {i % 5, i % 3 * 9}});
  Expect(shape);
}

TEST_P(ForwardTest, RowsOfABatchEqualThoseOfTheirSegmentAlone) {
  LoraShape shape;
  shape.dtype = GetParam().dtype, shape.k = 104, shape.n = {256}, shape.exact = false;
  shape.segments = {{120, {16}}, {0, {3}}, {9, {9}}, {60, {0}}};
  cuda_machine::SetMultiprocessors(1);  // large tiles for the batch, others for a short segment
  Forward batch(shape);
  batch.Run();
  const std::vector<uint8_t> first = batch.y[0]->Contents();
  batch.Run();
  EXPECT_EQ(first, batch.y[0]->Contents());
  int64_t row = 0;
  for (const LoraSegment& segment : batch.operands.segments()) {
    LoraProblem alone = batch.operands.problem();
    alone.segments = absl::MakeConstSpan(&segment, 1);
    if (segment.rows == 0) continue;
    const auto y = batch.operands.Empty("y alone", segment.rows, shape.n[0]);
    const Matrix result = y->matrix();
    const absl::Status status = LoraForwardCuda(alone, batch.x->From(row), batch.s->From(row),
                                                absl::MakeConstSpan(&result, 1), nullptr);
    ASSERT_TRUE(status.ok()) << status;
    for (int64_t i = 0; i < segment.rows; ++i, ++row) {
      for (int64_t j = 0; j < shape.n[0]; ++j) {
        ASSERT_EQ(y->Bits(i, j), batch.y[0]->Bits(row, j)) << row << ", " << j;
      }
    }
  }
}

TEST_P(ForwardTest, AlignedRowsCostNoMoreThanTheirSectorsAndWavefronts) {
  for (const int multiprocessors : {1, 1000}) {  // large and small tiles
    cuda_machine::SetMultiprocessors(multiprocessors);
    cuda_machine::Options options;
    options.statistics = true;
    cuda_machine::SetOptions(options);
    LoraShape shape;
    shape.layout = Layout::kDense;  // rows are whole sectors
    shape.dtype = GetParam().dtype, shape.k = 112, shape.n = {256}, shape.segments = {{128, {16}}};
    Forward forward(shape);
    forward.Run();
    ExpectBudgets();
  }
}

TEST(ForwardArguments, InvalidOnesAreRejected) {
  LoraShape shape;
  shape.k = 8, shape.n = {8}, shape.segments = {{4, {2}}};
  Forward forward(shape);
  const LoraProblem problem = forward.operands.problem();
  const ConstMatrix x = forward.x->matrix(), s = forward.s->matrix();
  const Matrix y = forward.y[0]->matrix();
  const auto run = [&](ConstMatrix x_of, ConstMatrix s_of, absl::Span<const Matrix> y_of) {
    return LoraForwardCuda(problem, x_of, s_of, y_of, nullptr).code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(run({nullptr, x.stride}, s, {y}), kInvalid);
  EXPECT_EQ(run({x.data, 7}, s, {y}), kInvalid);
  EXPECT_EQ(run({static_cast<const char*>(x.data) + 1, x.stride}, s, {y}), kInvalid);
  EXPECT_EQ(run(x, {nullptr, s.stride}, {y}), kInvalid);
  EXPECT_EQ(run(x, s, {}), kInvalid);
  EXPECT_EQ(run(x, s, {Matrix{nullptr, y.stride}}), kInvalid);
}

}  // namespace
}  // namespace fedumm::kernels
