// Matrices of the emulated device, what they are filled with, and what results are compared with.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "fedumm/kernels.h"
#include "kernels/problem.h"
#include "tests/cuda/machine/machine.h"

namespace fedumm::kernels {

// A small integer, with which all sums are exact; or else of a normal distribution.
inline float Draw(Random& random, bool exact) {
  return static_cast<float>(exact ? static_cast<double>(random.Below(5)) - 2 : random.Normal());
}

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
  // Starts `first` elements after an aligned address.
  DeviceMatrix(std::string name, DType dtype, int64_t rows, int64_t columns, int64_t stride,
               int64_t first = 0)
      : dtype_(dtype),
        rows_(rows),
        columns_(columns),
        stride_(stride),
        memory_(static_cast<size_t>(rows * columns == 0 ? 0 : (rows - 1) * stride + columns) *
                    static_cast<size_t>(BytesOf(dtype)),
                std::move(name), static_cast<size_t>(first * BytesOf(dtype))) {}

  void Set(int64_t row, int64_t column, float value) {
    const uint32_t bits = Encode(dtype_, value);
    std::memcpy(memory_.data() + At(row, column), &bits, Bytes());
    memory_.MarkInitialised(At(row, column), Bytes());
  }
  // value() for each element.
  template <typename Value>
  void Fill(Value value) {
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t j = 0; j < columns_; ++j) Set(i, j, value());
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
    if (memory_.bytes() == 0) return false;
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

  DType dtype() const { return dtype_; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  Matrix matrix() const { return {memory_.data(), stride_}; }
  float* floats() { return reinterpret_cast<float*>(memory_.data()); }  // of a float matrix
  // From a row on.
  Matrix From(int64_t row) const { return {memory_.data() + At(row, 0), stride_}; }

 private:
  size_t Bytes() const { return static_cast<size_t>(BytesOf(dtype_)); }
  size_t At(int64_t row, int64_t column) const {
    return static_cast<size_t>(row * stride_ + column) * Bytes();
  }

  DType dtype_;
  int64_t rows_, columns_, stride_;
  cuda_machine::DeviceMemory memory_;
};

// Compares a result element by element and, as it goes, expects all to be written, the padding not,
// and the values to match: bit for bit for a limit of 0, otherwise within this relative Frobenius
// error of the whole.
class Comparison {
 public:
  Comparison(const DeviceMatrix& got, double limit, std::string what)
      : got_(got), limit_(limit), what_(std::move(what)) {}

  void Expect(int64_t row, int64_t column, double want) {
    if (!got_.WasWritten(row, column)) ++unwritten_;
    const double error = got_(row, column) - want;
    const bool equal = got_.Bits(row, column) == Encode(got_.dtype(), static_cast<float>(want)) ||
                       (want == 0 && error == 0);
    if (std::isnan(error) || (limit_ == 0 && !equal)) {
      if (wrong_++ == 0) {
        first_ = "(" + std::to_string(row) + ", " + std::to_string(column) + ") is " +
                 std::to_string(got_(row, column)) + ", not " + std::to_string(want);
      }
    }
    error_ += error * error;
    size_ += want * want;
  }

  ~Comparison() {
    EXPECT_EQ(unwritten_, 0) << what_ << " has elements that were not written";
    EXPECT_EQ(wrong_, 0) << what_ << ": " << first_;
    EXPECT_FALSE(got_.PaddingWasWritten()) << what_;
    if (limit_ > 0 && size_ > 0) {
      EXPECT_LE(std::sqrt(error_ / size_), limit_) << what_;
    }
  }

 private:
  const DeviceMatrix& got_;
  const double limit_;
  const std::string what_;
  int64_t unwritten_ = 0, wrong_ = 0;
  double error_ = 0, size_ = 0;
  std::string first_;
};

struct SegmentShape {
  int64_t rows = 0;
  std::vector<int64_t> ranks;  // one a module
};

}  // namespace fedumm::kernels
