// Operands of the low-rank kernels on the emulated machine, and what results are compared with.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "fedumm/kernels.h"
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

inline int BytesOfElement(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

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

struct Random {
  uint64_t state;
  uint64_t Next() {  // SplitMix64
    state += 0x9e3779b97f4a7c15;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  int64_t Below(int64_t n) { return static_cast<int64_t>(Next() % static_cast<uint64_t>(n)); }
  // A small integer, with which all sums are exact; or else about normal.
  float Value(bool exact) {
    if (exact) return static_cast<float>(Below(5) - 2);
    double sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<double>(Next() >> 11) * 0x1p-53 - 0.5;
    return static_cast<float>(sum * 1.7);
  }
};

inline uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The element that `value` rounds to, to nearest and even, as bits. No NaN, no overflow.
inline uint32_t Encode(DType dtype, float value) {
  const uint32_t bits = BitsOf(value);
  if (dtype == DType::kFloat32) return bits;
  if (dtype == DType::kBFloat16) return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const uint32_t sign = bits >> 16 & 0x8000;
  const float size = std::fabs(value);
  if (size < 0x1p-14F) return sign | static_cast<uint32_t>(std::nearbyint(size * 0x1p24F));
  const uint32_t rounded = (bits & 0x7fffffff) + 0xfff + (bits >> 13 & 1);
  return sign | ((rounded >> 13) - (112 << 10));
}
inline double Decode(DType dtype, uint32_t bits) {
  if (dtype == DType::kFloat32) return FloatOf(bits);
  if (dtype == DType::kBFloat16) return FloatOf(bits << 16);
  const int exponent = static_cast<int>(bits >> 10 & 31);
  const double mantissa = bits & 1023;
  const double size = exponent == 31  ? std::nan("")
                      : exponent == 0 ? std::ldexp(mantissa, -24)
                                      : std::ldexp(mantissa + 1024, exponent - 25);
  return bits & 0x8000 ? -size : size;
}

// A matrix in global memory. Elements have no value, and padding never gets one: a kernel that
// reads either is reported.
class DeviceMatrix {
 public:
  DeviceMatrix(std::string name, DType dtype, int64_t rows, int64_t columns, Layout layout)
      : dtype_(dtype),
        rows_(rows),
        columns_(columns),
        stride_(StrideOf(columns, layout)),
        memory_(static_cast<size_t>(rows == 0 ? 0 : (rows - 1) * stride_ + columns) *
                    static_cast<size_t>(BytesOfElement(dtype)),
                std::move(name),
                layout == Layout::kUnaligned ? static_cast<size_t>(BytesOfElement(dtype)) : 0) {}

  void Set(int64_t row, int64_t column, float value) {
    const uint32_t bits = Encode(dtype_, value);
    std::memcpy(memory_.data() + At(row, column), &bits, Bytes());
    memory_.MarkInitialised(At(row, column), Bytes());
  }
  void Fill(Random& random, bool exact) {
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t j = 0; j < columns_; ++j) Set(i, j, random.Value(exact));
    }
  }
  void ReadOnly() { memory_.SetReadOnly(true); }
  void Poison() { memory_.Poison(); }

  uint32_t Bits(int64_t row, int64_t column) const {
    uint32_t bits = 0;
    std::memcpy(&bits, memory_.data() + At(row, column), Bytes());
    return bits;
  }
  double operator()(int64_t row, int64_t column) const { return Decode(dtype_, Bits(row, column)); }
  bool WasWritten(int64_t row, int64_t column) const {
    return memory_.WasWritten(At(row, column), Bytes());
  }
  bool PaddingWasWritten() const {
    for (int64_t i = 0; i + 1 < rows_; ++i) {
      for (int64_t j = columns_; j < stride_; ++j) {
        if (WasWritten(i, j)) return true;
      }
    }
    return false;
  }
  std::vector<uint8_t> Contents() const {
    return {memory_.data(), memory_.data() + memory_.bytes()};
  }

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  Matrix matrix() const { return {memory_.data(), stride_}; }
  // From a row on.
  Matrix From(int64_t row) const { return {memory_.data() + At(row, 0), stride_}; }

 private:
  static int64_t StrideOf(int64_t columns, Layout layout) {
    if (layout == Layout::kPadded) return (columns + 15) / 8 * 8;
    return layout == Layout::kDense ? columns : columns | 1;
  }
  size_t Bytes() const { return static_cast<size_t>(BytesOfElement(dtype_)); }
  size_t At(int64_t row, int64_t column) const {
    return static_cast<size_t>(row * stride_ + column) * Bytes();
  }

  DType dtype_;
  int64_t rows_, columns_, stride_;
  cuda_machine::DeviceMemory memory_;
};

struct SegmentShape {
  int64_t rows = 0;
  std::vector<int64_t> ranks;  // one a module
};
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
  explicit LoraOperands(const LoraShape& shape) : shape_(shape), random_{shape.seed} {
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
    matrix->Fill(random_, shape_.exact);
    matrix->ReadOnly();
    return matrix;
  }
  std::unique_ptr<DeviceMatrix> Empty(const char* name, int64_t rows, int64_t columns) const {
    return std::make_unique<DeviceMatrix>(name, shape_.dtype, rows, columns, shape_.layout);
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
            s->Set(row, LoraSColumn(of, static_cast<int64_t>(g)) + j, random_.Value(shape_.exact));
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

inline double GateOf(DType dtype) {
  return dtype == DType::kFloat32 ? 5e-6 : dtype == DType::kBFloat16 ? 3.5e-3 : 5e-4;
}

// Compares a result element by element: exact operands must match bit for bit, others within the
// gate as a whole.
class Comparison {
 public:
  Comparison(const DeviceMatrix& got, const LoraShape& shape) : got_(got), shape_(shape) {}

  void Expect(int64_t row, int64_t column, double want) {
    if (!got_.WasWritten(row, column)) ++unwritten_;
    const double error = got_(row, column) - want;
    if (std::isnan(error)) ++wrong_;
    if (shape_.exact && got_.Bits(row, column) != Encode(shape_.dtype, static_cast<float>(want)) &&
        !(want == 0 && error == 0)) {
      if (wrong_++ == 0) {
        first_ = "(" + std::to_string(row) + ", " + std::to_string(column) + ") is " +
                 std::to_string(got_(row, column)) + ", not " + std::to_string(want);
      }
    }
    error_ += error * error;
    size_ += want * want;
  }

  ~Comparison() {
    EXPECT_EQ(unwritten_, 0) << shape_.ToString();
    EXPECT_EQ(wrong_, 0) << shape_.ToString() << ": " << first_;
    EXPECT_FALSE(got_.PaddingWasWritten()) << shape_.ToString();
    if (size_ > 0) {
      EXPECT_LE(std::sqrt(error_ / size_), GateOf(shape_.dtype)) << shape_.ToString();
    }
  }

 private:
  const DeviceMatrix& got_;
  const LoraShape& shape_;
  int64_t unwritten_ = 0, wrong_ = 0;
  double error_ = 0, size_ = 0;
  std::string first_;
};

}  // namespace fedumm::kernels
