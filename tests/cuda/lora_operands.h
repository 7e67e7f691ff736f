// Operands of the low-rank kernels on the emulated machine, and what results are compared with.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "fedumm/kernels.h"
#include "tests/cuda/device_matrix.h"
#include "tests/cuda/machine/fixture.h"
#include "tests/cuda/machine/machine.h"

namespace fedumm::kernels {

// The architecture whose kernels a test runs, and the type of the elements.
struct Target {
  int major;
  DType dtype;
};
inline constexpr Target kTargets[] = {{8, DType::kFloat32},  {8, DType::kBFloat16},
                                      {8, DType::kFloat16},  {9, DType::kFloat32},
                                      {9, DType::kBFloat16}, {9, DType::kFloat16}};
inline std::string NameOf(const testing::TestParamInfo<Target>& info) {
  const char* const names[] = {"Float32", "BFloat16", "Float16"};
  return "Sm" + std::to_string(info.param.major) + "0" + names[static_cast<int>(info.param.dtype)];
}

class TargetTest : public cuda_machine::MachineTest, public testing::WithParamInterface<Target> {
 protected:
  void SetUp() override {
    MachineTest::SetUp();
    cuda_machine::SetDevice(GetParam().major);
  }
};

// Where the rows of a matrix lie.
enum class Layout {
  kPadded,     // 16-byte aligned, with 8 elements or more of padding
  kDense,      // no padding: aligned only if the columns are a multiple of 16 bytes
  kUnaligned,  // an odd stride, and a start that is aligned to the element only
};

// The schedules that tests of many shapes go through by turns.
inline void SetSchedule(size_t turn) {
  cuda_machine::Options options;
  options.order = static_cast<cuda_machine::Order>(turn % 3);
  options.land_early = turn % 4 == 3;
  options.seed = turn + 1;
  cuda_machine::SetOptions(options);
}

// Budgets of a shape whose rows are whole sectors.
inline void ExpectBudgets() {
  const cuda_machine::Statistics statistics = cuda_machine::TakeStatistics();
  EXPECT_EQ(statistics.Ratio(/*shared=*/true, "ldmatrix"), 1) << statistics.ToString();
  EXPECT_EQ(statistics.Ratio(/*shared=*/true, "st"), 1) << statistics.ToString();
  EXPECT_LE(statistics.Ratio(/*shared=*/false), 1.15) << statistics.ToString();
}

inline constexpr Layout kLayouts[] = {Layout::kPadded, Layout::kDense, Layout::kUnaligned};

struct LoraShape {
  DType dtype = DType::kBFloat16;
  int64_t k = 0;
  std::vector<int64_t> n;
  std::vector<SegmentShape> segments;
  Layout layout = Layout::kPadded;
  bool exact = true;
  double dropout = 0;
  float scale = 2;
  bool bias = false;
  uint64_t seed = 1;

  std::string ToString() const {
    std::string text = "dtype " + std::to_string(static_cast<int>(dtype)) + ", layout " +
                       std::to_string(static_cast<int>(layout)) + ", k " + std::to_string(k) +
                       ", n";
    for (const int64_t columns : n) text += " " + std::to_string(columns);
    for (const SegmentShape& segment : segments) {
      text += "; " + std::to_string(segment.rows) + " rows, ranks";
      for (const int64_t rank : segment.ranks) text += " " + std::to_string(rank);
    }
    return text + (exact ? ", exact" : ", random") + ", dropout " + std::to_string(dropout);
  }
};

// The weights and adapters of a problem in read-only global memory.
class LoraOperands {
 public:
  explicit LoraOperands(const LoraShape& shape) : shape_(shape), random_(shape.seed) {
    const auto matrix = [&](const char* name, int64_t rows, int64_t columns) {
      return Add(name, rows, columns);
    };
    for (const int64_t n : shape.n) {
      LoraModule module;
      module.n = n;
      w_.push_back(matrix("W", n, shape.k));
      module.w = w_.back()->matrix();
      bias_.push_back(shape.bias ? matrix("bias", 1, n) : nullptr);
      if (shape.bias) module.bias = bias_.back()->matrix().data;
      modules_.push_back(module);
    }
    for (const SegmentShape& of : shape.segments) {
      LoraSegment segment;
      segment.rows = of.rows;
      segment.dropout_key = random_.Next();
      for (size_t g = 0; g < shape.n.size(); ++g) {
        a_.push_back(matrix("A", of.ranks[g], shape.k));
        b_.push_back(matrix("B", shape.n[g], of.ranks[g]));
        segment.factors[g] = {of.ranks[g], shape.scale, a_.back()->matrix(), b_.back()->matrix()};
      }
      segments_.push_back(segment);
    }
  }

  LoraProblem problem() const {
    LoraProblem problem;
    problem.dtype = shape_.dtype;
    problem.k = shape_.k;
    problem.modules = modules_;
    problem.segments = segments_;
    problem.dropout = shape_.dropout;
    return problem;
  }
  const LoraShape& shape() const { return shape_; }
  const std::vector<LoraSegment>& segments() const { return segments_; }
  const DeviceMatrix& w(size_t module) const { return *w_[module]; }
  const DeviceMatrix* bias(size_t module) const { return bias_[module].get(); }
  const DeviceMatrix& a(size_t segment, size_t module) const {
    return *a_[segment * shape_.n.size() + module];
  }
  const DeviceMatrix& b(size_t segment, size_t module) const {
    return *b_[segment * shape_.n.size() + module];
  }

  // A read-only operand with values; an activation of the problem.
  std::unique_ptr<DeviceMatrix> Add(const char* name, int64_t rows, int64_t columns) {
    auto matrix = Empty(name, rows, columns);
    matrix->Fill([&] { return Draw(random_, shape_.exact); });
    matrix->ReadOnly();
    return matrix;
  }
  std::unique_ptr<DeviceMatrix> Empty(const char* name, int64_t rows, int64_t columns) const {
    const int64_t stride = shape_.layout == Layout::kPadded  ? (columns + 15) / 8 * 8
                           : shape_.layout == Layout::kDense ? columns
                                                             : columns | 1;
    return std::make_unique<DeviceMatrix>(name, shape_.dtype, rows, columns, stride,
                                          shape_.layout == Layout::kUnaligned ? 1 : 0);
  }
  // S or dS: elements beyond a segment's rank have no value.
  std::unique_ptr<DeviceMatrix> AddS(const char* name) {
    const LoraProblem of = problem();
    auto s = Empty(name, LoraRows(of), LoraSColumns(of));
    int64_t row = 0;
    for (const LoraSegment& segment : segments_) {
      for (int64_t i = 0; i < segment.rows; ++i, ++row) {
        for (size_t g = 0; g < shape_.n.size(); ++g) {
          for (int64_t j = 0; j < segment.factors[g].rank; ++j) {
            s->Set(row, LoraSColumn(of, static_cast<int64_t>(g)) + j, Draw(random_, shape_.exact));
          }
        }
      }
    }
    s->ReadOnly();
    return s;
  }
  Random& random() { return random_; }

 private:
  LoraShape shape_;
  Random random_;
  std::vector<LoraModule> modules_;
  std::vector<LoraSegment> segments_;
  std::vector<std::unique_ptr<DeviceMatrix>> w_, bias_, a_, b_;
};

// What a shape's results may differ by.
inline double GateOf(const LoraShape& shape) {
  if (shape.exact) return 0;
  return shape.dtype == DType::kFloat32 ? 5e-6 : shape.dtype == DType::kBFloat16 ? 3.5e-3 : 5e-4;
}

}  // namespace fedumm::kernels
