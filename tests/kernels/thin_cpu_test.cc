// The thin products on small integers, which every float type holds and whose sums are exact:
// results equal plain loops bit for bit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <ostream>
#include <vector>

#include "base/random.h"
#include "fedumm/kernels.h"

namespace fedumm::kernels {
namespace {

// The bits of a small integer or NaN as a bfloat16 or a half.
uint16_t Narrow(DType dtype, float value) {
  if (std::isnan(value)) return 0x7fff;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (dtype == DType::kBFloat16) return static_cast<uint16_t>(bits >> 16);
  if (value == 0) return 0;
  return static_cast<uint16_t>((bits >> 16 & 0x8000) | ((bits & 0x7fffffff) - 0x38000000) >> 13);
}

float Widen(DType dtype, uint16_t bits) {
  if (dtype == DType::kBFloat16) {
    const uint32_t wide = uint32_t{bits} << 16;
    float value;
    std::memcpy(&value, &wide, sizeof(value));
    return value;
  }
  const float magnitude =
      std::ldexp(static_cast<float>(1024 | (bits & 1023)), (bits >> 10 & 31) - 25);
  if ((bits & 0x7fff) == 0) return 0;
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// A matrix whose rows are followed by padding of NaN.
class Padded {
 public:
  Padded(DType dtype, int64_t rows, int64_t columns, int64_t padding, Random& random)
      : dtype_(dtype), stride_(columns + padding) {
    for (int64_t i = 0; i < rows * stride_; ++i) {
      const bool inside = i % stride_ < columns;
      const float value = inside ? static_cast<float>(static_cast<int64_t>(random.Next() % 7) - 3)
                                 : std::numeric_limits<float>::quiet_NaN();
      floats_.push_back(value);
      shorts_.push_back(dtype == DType::kFloat32 ? uint16_t{0} : Narrow(dtype, value));
    }
  }
  Matrix matrix() {
    return {dtype_ == DType::kFloat32 ? static_cast<void*>(floats_.data())
                                      : static_cast<void*>(shorts_.data()),
            stride_};
  }
  float At(int64_t row, int64_t column) const {
    const auto i = static_cast<size_t>(row * stride_ + column);
    return dtype_ == DType::kFloat32 ? floats_[i] : Widen(dtype_, shorts_[i]);
  }
  bool PaddingIsWhole(int64_t columns) const {
    for (size_t i = 0; i < floats_.size(); ++i) {
      if (static_cast<int64_t>(i) % stride_ < columns) continue;
      if (dtype_ == DType::kFloat32 ? !std::isnan(floats_[i]) : shorts_[i] != 0x7fff) return false;
    }
    return true;
  }

 private:
  DType dtype_;
  int64_t stride_;
  std::vector<float> floats_;
  std::vector<uint16_t> shorts_;
};

struct Size {
  int64_t m, k, r;
  friend std::ostream& operator<<(std::ostream& out, const Size& size) {
    return out << "m" << size.m << "_k" << size.k << "_r" << size.r;
  }
};

class ThinCpuTest : public ::testing::TestWithParam<std::tuple<Size, DType, bool>> {
 protected:
  ThinCpuTest()
      : random_(1), x_(dtype_, size_.m, size_.k, 5, random_), kept_(size_.m * (words_ + 1)) {
    for (uint32_t& word : kept_) word = static_cast<uint32_t>(random_.Next());
    for (int64_t i = 0; i < size_.r * size_.k; ++i)
      f_.push_back(static_cast<float>(static_cast<int64_t>(random_.Next() % 7) - 3));
    for (int64_t i = 0; i < size_.m * s_stride_; ++i)
      s_.push_back(static_cast<float>(static_cast<int64_t>(random_.Next() % 5) - 2));
  }
  CpuActivation Activation() {
    return {.dtype = dtype_,
            .matrix = x_.matrix(),
            .kept = masked_ ? kept_.data() : nullptr,
            .kept_stride = words_ + 1};
  }
  bool IsKept(int64_t row, int64_t column) const {
    return !masked_ ||
           (kept_[static_cast<size_t>(row * (words_ + 1) + column / 32)] >> (column % 32) & 1) != 0;
  }
  double F(int64_t j, int64_t c) const { return f_[static_cast<size_t>(j * size_.k + c)]; }
  double S(int64_t i, int64_t j) const { return s_[static_cast<size_t>(i * s_stride_ + j)]; }
  std::vector<const float*> Rows() const {
    std::vector<const float*> rows;
    for (int64_t j = 0; j < size_.r; ++j) rows.push_back(f_.data() + j * size_.k);
    return rows;
  }

  const Size size_ = std::get<0>(GetParam());
  const DType dtype_ = std::get<1>(GetParam());
  const bool masked_ = std::get<2>(GetParam());
  const int64_t words_ = DropoutWords(size_.k);
  const int64_t s_stride_ = size_.r + 3;
  Random random_;
  Padded x_;
  std::vector<uint32_t> kept_;
  std::vector<float> f_;
  std::vector<float> s_;
};

TEST_P(ThinCpuTest, ShrinkEqualsPlainLoops) {
  std::vector<float> s(s_.size(), -99);
  std::vector<float> scales;
  for (int64_t j = 0; j < size_.r; ++j) scales.push_back(0.5F * static_cast<float>(j % 3 + 1));
  LoraShrinkCpu(size_.m, scales.data(), Activation(),
                PackedFactor(PackedFactor::For::kShrink, Rows(), size_.k, 1), s.data(), s_stride_);
  for (int64_t i = 0; i < size_.m; ++i) {
    for (int64_t j = 0; j < s_stride_; ++j) {
      double expected = -99;
      if (j < size_.r) {
        expected = 0;
        for (int64_t c = 0; c < size_.k; ++c) expected += IsKept(i, c) ? x_.At(i, c) * F(j, c) : 0;
        expected *= scales[static_cast<size_t>(j)];
      }
      ASSERT_EQ(s[static_cast<size_t>(i * s_stride_ + j)], expected) << i << " " << j;
    }
  }
}

TEST_P(ThinCpuTest, ExpandAddsToWhatIsThere) {
  const Padded before = x_;
  // B as [columns, rank]: its columns are the rows of the factor.
  std::vector<float> b(f_.size());
  std::vector<const float*> columns;
  for (int64_t j = 0; j < size_.r; ++j) {
    columns.push_back(b.data() + j);
    for (int64_t c = 0; c < size_.k; ++c)
      b[static_cast<size_t>(c * size_.r + j)] = static_cast<float>(F(j, c));
  }
  LoraExpandAddCpu(size_.m, s_.data(), s_stride_,
                   PackedFactor(PackedFactor::For::kExpand, columns, size_.k, size_.r),
                   Activation());
  for (int64_t i = 0; i < size_.m; ++i) {
    for (int64_t c = 0; c < size_.k; ++c) {
      double expected = before.At(i, c);
      for (int64_t j = 0; j < size_.r && IsKept(i, c); ++j) expected += S(i, j) * F(j, c);
      if (dtype_ == DType::kBFloat16 && std::fabs(expected) > 256) continue;  // is rounded
      ASSERT_EQ(x_.At(i, c), expected) << i << " " << c;
    }
  }
  EXPECT_TRUE(x_.PaddingIsWhole(size_.k));
}

TEST_P(ThinCpuTest, OuterProductsAddUpInAnyShareOfTheColumns) {
  std::vector<float> gradient(f_.size(), 10);
  std::vector<float*> rows;
  for (int64_t j = 0; j < size_.r; ++j) rows.push_back(gradient.data() + j * size_.k);
  for (int64_t first = 0; first < size_.k; first += 96) {
    LoraOuterAddCpu(size_.m, s_.data(), s_stride_, Activation(), first,
                    std::min<int64_t>(first + 96, size_.k), rows);
  }
  for (int64_t j = 0; j < size_.r; ++j) {
    for (int64_t c = 0; c < size_.k; ++c) {
      double expected = 10;
      for (int64_t i = 0; i < size_.m; ++i) expected += IsKept(i, c) ? S(i, j) * x_.At(i, c) : 0;
      ASSERT_EQ(gradient[static_cast<size_t>(j * size_.k + c)], expected) << j << " " << c;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, ThinCpuTest,
    ::testing::Combine(::testing::Values(Size{1, 1, 1}, Size{3, 7, 2}, Size{9, 33, 5},
                                         Size{70, 64, 8}, Size{19, 97, 16}, Size{13, 530, 17},
                                         Size{7, 40, 33}, Size{65, 130, 64}, Size{5, 31, 100},
                                         Size{0, 5, 3}),
                       ::testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat16),
                       ::testing::Bool()));

TEST(ThinCpuRoundingTest, NarrowOutputsRoundToTheNearestEven) {
  // 1 + 2^-8 lies between the bfloat16 1 and 1 + 2^-7; 1 + 3 * 2^-8 between 1 + 2^-7 and 1 + 2^-6.
  const float factor = 0x1p-8F;
  const float* const rows[] = {&factor};
  const PackedFactor f(PackedFactor::For::kExpand, rows, 1, 1);
  const auto add = [&](DType dtype, uint16_t to, float s) {
    LoraExpandAddCpu(1, &s, 1, f, {.dtype = dtype, .matrix = {&to, 1}});
    return to;
  };
  EXPECT_EQ(add(DType::kBFloat16, 0x3f80, 1), 0x3f80);
  EXPECT_EQ(add(DType::kBFloat16, 0x3f80, 3), 0x3f82);
  EXPECT_EQ(add(DType::kBFloat16, 0x3f80, std::numeric_limits<float>::quiet_NaN()), 0x7fc0);
  EXPECT_EQ(add(DType::kBFloat16, 0, std::numeric_limits<float>::infinity()), 0x7f80);
  // Halves: 1 + 2^-11 and 1 + 3 * 2^-11; the largest; the smallest.
  EXPECT_EQ(add(DType::kFloat16, 0x3c00, 0.125F), 0x3c00);
  EXPECT_EQ(add(DType::kFloat16, 0x3c00, 0.375F), 0x3c02);
  EXPECT_EQ(add(DType::kFloat16, 0x7bff, 256 * 15.9F), 0x7bff);
  EXPECT_EQ(add(DType::kFloat16, 0x7bff, 256 * 16.0F), 0x7c00);
  EXPECT_EQ(add(DType::kFloat16, 0, 0x1p-16F), 1);
  EXPECT_EQ(add(DType::kFloat16, 0x8001, 0), 0x8001);
  EXPECT_EQ(add(DType::kFloat16, 0, 0x1p-17F), 0);  // half of the smallest: to even
  EXPECT_EQ(add(DType::kFloat16, 0, std::numeric_limits<float>::quiet_NaN()), 0x7e00);
}

TEST(ThinCpuRoundingTest, TheMaskIsPhilox) {
  // Random123's known answer: philox4x32-10 of counter and key 0 is 6627e8d5 e169c58d bc57ac4c
  // 9b00dbd8. 16 bits below 0x8000 are dropped at 0.5.
  EXPECT_EQ(DropoutWord(0.5, 0, 0, 0) & 0xff, 0b11111101u);
  for (const int64_t k : {1, 31, 64, 65, 200}) {
    for (const double dropout : {0.0, 0.05, 0.5, 0.99}) {
      std::vector<uint32_t> kept(static_cast<size_t>(3 * DropoutWords(k)));
      const uint64_t key = 0x123456789abcdef0u;
      const int64_t first_row = (int64_t{1} << 33) + 5;
      DropoutMaskCpu(dropout, key, first_row, 3, k, kept.data());
      for (size_t i = 0; i < kept.size(); ++i) {
        const auto row = first_row + static_cast<int64_t>(i) / DropoutWords(k);
        EXPECT_EQ(kept[i],
                  DropoutWord(dropout, key, row, static_cast<int64_t>(i) % DropoutWords(k)));
      }
    }
  }
}

TEST(LoraProblemTest, WhatIsWrongIsNamed) {
  const float data[64] = {};
  const auto message = [&](const LoraModule& module, const LoraSegment& segment,
                           double dropout = 0) {
    return std::string(
        CheckLoraProblem(
            {.k = 4, .modules = {&module, 1}, .segments = {&segment, 1}, .dropout = dropout})
            .message());
  };
  const LoraModule module{.n = 3, .w = {data, 4}};
  const auto segment = [&](int64_t rank, ConstMatrix a, ConstMatrix b) {
    LoraSegment result{.rows = 5};
    result.factors[0] = {.rank = rank, .a = a, .b = b};
    return result;
  };
  using ::testing::HasSubstr;
  EXPECT_EQ(message(module, segment(2, {data, 4}, {data, 2})), "");
  EXPECT_THAT(message(module, segment(257, {data, 4}, {data, 257})),
              HasSubstr("rank 257 of module 0, segment 0 is outside 0..256"));
  EXPECT_THAT(message(module, segment(2, {nullptr, 4}, {data, 2})),
              HasSubstr("A of module 0, segment 0 is null"));
  EXPECT_THAT(message(module, segment(2, {data, 3}, {data, 2})), HasSubstr("only 3 apart"));
  EXPECT_THAT(message(module, segment(2, {reinterpret_cast<const char*>(data) + 2, 4}, {data, 2})),
              HasSubstr("not aligned"));
  EXPECT_THAT(message({.n = -1}, segment(2, {data, 4}, {data, 2})), HasSubstr("n = -1"));
  EXPECT_THAT(message({.n = 3, .w = {data, int64_t{1} << 62}}, segment(0, {}, {})),
              HasSubstr("larger than memory"));
  EXPECT_THAT(message(module, {.rows = -2}), HasSubstr("-2 rows"));
  EXPECT_THAT(message(module, segment(0, {}, {}), 1), HasSubstr("dropout = 1"));
}

}  // namespace
}  // namespace fedumm::kernels
