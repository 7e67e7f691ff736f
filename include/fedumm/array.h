#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace fedumm {

enum class DType {
  kBool,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kUInt8,
  kUInt16,
  kUInt32,
  kUInt64,
  kFloat16,
  kBFloat16,
  kFloat32,
  kFloat64,
};

int64_t ElementSize(DType dtype);         // bytes
std::string_view DTypeName(DType dtype);  // NumPy's name: "float32"; "bfloat16" for kBFloat16
absl::StatusOr<DType> DTypeFromName(std::string_view name);

// A dense row-major little-endian tensor in host memory. Immutable and cheap to copy: copies share
// the bytes. Thread-safe.
class Array {
 public:
  Array();  // float32, shape {0}

  // INVALID_ARGUMENT unless `bytes` is exactly product(shape) elements of `dtype`, no dimension is
  // negative and the product does not overflow. `offset` lets an array use the tail of a larger
  // buffer (a received .npy stream) without a copy.
  static absl::StatusOr<Array> Create(DType dtype, std::vector<int64_t> shape, std::string bytes);
  static absl::StatusOr<Array> Create(DType dtype, std::vector<int64_t> shape,
                                      std::shared_ptr<const std::string> buffer, size_t offset);
  // `values` must have product(shape) elements: a broken promise is our own bug and aborts.
  static Array FromFloats(std::vector<int64_t> shape, std::span<const float> values);
  static Array FromDoubles(std::vector<int64_t> shape, std::span<const double> values);
  // An array with the dtype and the shape of `form`, whose own values do not matter. Each value is
  // rounded once to the dtype, ties to even. A float beyond the dtype's range becomes infinity, an
  // integer the nearest one in range; NaN becomes integer 0; a boolean is true unless the value is
  // 0. `values` must have form.num_elements() elements: otherwise it aborts, as above.
  static Array FromDoublesLike(const Array& form, std::span<const double> values);

  DType dtype() const { return dtype_; }
  std::span<const int64_t> shape() const { return shape_; }
  int64_t num_elements() const { return num_elements_; }
  std::string_view bytes() const { return bytes_; }
  // FAILED_PRECONDITION unless the dtype is kFloat32 (kFloat64). The span lives as long as any copy
  // of this array.
  absl::StatusOr<std::span<const float>> floats() const;
  absl::StatusOr<std::span<const double>> doubles() const;
  // Every element as a double, whatever the dtype; 64-bit integers round.
  std::vector<double> ToDoubles() const;

  std::string ShapeString() const;  // "[2, 3]"

  friend bool operator==(const Array& a, const Array& b) {
    return a.dtype_ == b.dtype_ && a.shape_ == b.shape_ && a.bytes_ == b.bytes_;
  }

 private:
  Array(DType dtype, std::vector<int64_t> shape, int64_t num_elements,
        std::shared_ptr<const std::string> buffer, size_t offset);

  DType dtype_;
  std::vector<int64_t> shape_;
  int64_t num_elements_;
  std::shared_ptr<const std::string>
      buffer_;  // owns what bytes_ points into; aligned for the dtype
  std::string_view bytes_;
};

}  // namespace fedumm
