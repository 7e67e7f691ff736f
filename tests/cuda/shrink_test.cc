// LoraShrinkCuda on the emulated machine: S = scale * dropout(x) Aᵀ / (1 - dropout), and the mask.
#include "tests/cuda/lora_operands.h"

namespace fedumm::kernels {
namespace {

class ShrinkTest : public TargetTest {};
INSTANTIATE_TEST_SUITE_P(Targets, ShrinkTest, testing::ValuesIn(kTargets), NameOf);
using cuda_machine::Buffer;

struct Shrink {
  explicit Shrink(const LoraShape& shape)
      : operands(shape),
        words(DropoutWords(shape.k)),
        kept(static_cast<size_t>(LoraRows(operands.problem()) * words), "kept") {
    const LoraProblem problem = operands.problem();
    x = operands.Add("x", LoraRows(problem), shape.k);
    s = operands.Empty("S", LoraRows(problem), LoraSColumns(problem));
  }

  void Run() {
    s->Poison();
    kept.Poison();
    const absl::Status status =
        LoraShrinkCuda(operands.problem(), x->matrix(), s->matrix(),
                       operands.shape().dropout > 0 ? kept.data() : nullptr, nullptr);
    ASSERT_TRUE(status.ok()) << status;
    const cuda_machine::Report report = cuda_machine::TakeReport();
    ASSERT_TRUE(report.ok()) << operands.shape().ToString() << "\n" << report.ToString();
  }

  void Check() const {
    const LoraShape& shape = operands.shape();
    const LoraProblem problem = operands.problem();
    const double factor = shape.scale / (1 - shape.dropout);
    Comparison comparison(*s, GateOf(shape), shape.ToString());
    int64_t row = 0, wrong_masks = 0;
    std::vector<double> dropped(static_cast<size_t>(shape.k));
    for (size_t i = 0; i < shape.segments.size(); ++i) {
      for (int64_t r = 0; r < shape.segments[i].rows; ++r, ++row) {
        for (int64_t j = 0; j < shape.k; ++j) {
          uint32_t word = ~0U;
          if (shape.dropout > 0) {
            word = DropoutWord(shape.dropout, operands.segments()[i].dropout_key, r, j / 32);
            const auto at = static_cast<size_t>(row * words + j / 32);
            if (!kept.WasWritten(at) || kept[at] != word) ++wrong_masks;
          }
          dropped[static_cast<size_t>(j)] = word >> j % 32 & 1 ? (*x)(row, j) : 0;
        }
        for (size_t g = 0; g < shape.n.size(); ++g) {
          const int64_t column = LoraSColumn(problem, static_cast<int64_t>(g));
          const int64_t end = LoraSColumn(problem, static_cast<int64_t>(g) + 1);
          const int64_t rank = shape.segments[i].ranks[g];
          for (int64_t t = 0; t < rank; ++t) {
            double want = 0;
            for (int64_t j = 0; j < shape.k; ++j) {
              want += dropped[static_cast<size_t>(j)] * operands.a(i, g)(t, j);
            }
            comparison.Expect(row, column + t, factor * want);
          }
          for (int64_t t = column + rank; t < end; ++t) {
            ASSERT_FALSE(s->WasWritten(row, t)) << shape.ToString();
          }
        }
      }
    }
    EXPECT_EQ(wrong_masks, 0) << shape.ToString();
  }

  LoraOperands operands;
  int64_t words;
  std::unique_ptr<DeviceMatrix> x, s;
  Buffer<uint32_t> kept;
};

void Expect(const LoraShape& shape) {
  Shrink shrink(shape);
  shrink.Run();
  if (testing::Test::HasFatalFailure()) return;
  shrink.Check();
}

TEST_P(ShrinkTest, TileEdges) {
  const int64_t sizes[][3] = {// m, k, r
                              {1, 1, 1},     {31, 63, 8},  {32, 64, 7},   {33, 65, 16},
                              {5, 0, 5},     {40, 31, 0},  {40, 129, 17}, {33, 600, 33},
                              {17, 257, 64}, {34, 96, 65}, {10, 70, 256}};
  for (size_t i = 0; i < std::size(sizes); ++i) {
    const auto& [m, k, r] = sizes[i];
    for (const Layout layout : kLayouts) {
      for (const double dropout : {0.0, 0.5}) {
        LoraShape shape;
        shape.dtype = GetParam().dtype, shape.k = k, shape.n = {3}, shape.segments = {{m, {r}}};
        shape.layout = layout, shape.dropout = dropout, shape.seed = i;
        shape.exact = i % 4 != 3;
        SetSchedule(i);
        Expect(shape);
        if (HasFailure()) return;
      }
    }
  }
}

// More segments than a launch takes, some of them empty, with unequal ranks.
TEST_P(ShrinkTest, ManySegments) {
  LoraShape shape;
  shape.dtype = GetParam().dtype, shape.k = 50, shape.n = {3, 0, 2}, shape.dropout = 0.25;
  shape.exact = false;
  for (int64_t i = 0; i < 70; ++i) shape.segments.push_back({i % 4, {i % 5, i % 3 * 9, i % 7 * 5}});
  Expect(shape);
}

// A rate below the step of 2^-16 drops nothing, but the mask is there for the backward pass.
TEST_P(ShrinkTest, ATinyRateKeepsAll) {
  LoraShape shape;
  shape.dtype = GetParam().dtype, shape.k = 70, shape.n = {3}, shape.segments = {{33, {4}}};
  shape.dropout = 0x1p-20, shape.exact = false;
  Expect(shape);
}

TEST_P(ShrinkTest, RowsOfABatchEqualThoseOfTheirSegmentAlone) {
  LoraShape shape;
  shape.dtype = GetParam().dtype, shape.k = 300, shape.n = {3}, shape.exact = false;
  shape.segments = {{40, {60}}, {0, {3}}, {9, {9}}, {33, {0}}};
  shape.dropout = 0.25;
  Shrink batch(shape);
  batch.Run();
  const std::vector<uint8_t> first = batch.s->Contents();
  batch.Run();
  EXPECT_EQ(first, batch.s->Contents());
  int64_t row = 0;
  for (const LoraSegment& segment : batch.operands.segments()) {
    LoraProblem alone = batch.operands.problem();
    alone.segments = absl::MakeConstSpan(&segment, 1);
    if (segment.rows == 0) continue;
    const auto s = batch.operands.Empty("S alone", segment.rows, LoraSColumns(alone));
    Buffer<uint32_t> kept(static_cast<size_t>(segment.rows * batch.words), "kept alone");
    const absl::Status status =
        LoraShrinkCuda(alone, batch.x->From(row), s->matrix(), kept.data(), nullptr);
    ASSERT_TRUE(status.ok()) << status;
    for (int64_t i = 0; i < segment.rows; ++i, ++row) {
      for (int64_t j = 0; j < segment.factors[0].rank; ++j) {
        ASSERT_EQ(s->Bits(i, j), batch.s->Bits(row, j)) << row << ", " << j;
      }
      for (int64_t word = 0; word < batch.words; ++word) {
        ASSERT_EQ(kept[static_cast<size_t>(i * batch.words + word)],
                  batch.kept[static_cast<size_t>(row * batch.words + word)]);
      }
    }
  }
}

TEST_P(ShrinkTest, AlignedRowsCostNoMoreThanTheirSectorsAndWavefronts) {
  for (const int64_t rank : {16, 32, 64}) {
    cuda_machine::Options options;
    options.statistics = true;
    cuda_machine::SetOptions(options);
    LoraShape shape;
    shape.layout = Layout::kDense;  // rows are whole sectors
    shape.dtype = GetParam().dtype, shape.k = 512, shape.n = {3}, shape.segments = {{64, {rank}}};
    shape.dropout = 0.5;
    Shrink shrink(shape);
    shrink.Run();
    ExpectBudgets();
  }
}

}  // namespace
}  // namespace fedumm::kernels
