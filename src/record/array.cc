#include "fedumm/array.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "record/elements.h"
#include "record/shape.h"

static_assert(std::endian::native == std::endian::little, "arrays are kept little-endian");

namespace fedumm {
namespace {

struct DTypeInfo {
  std::string_view name;
  int64_t size;
};

// In the order of DType.
constexpr DTypeInfo kDTypes[] = {
    {"bool", 1},     {"int8", 1},    {"int16", 2},   {"int32", 4},  {"int64", 8},
    {"uint8", 1},    {"uint16", 2},  {"uint32", 4},  {"uint64", 8}, {"float16", 2},
    {"bfloat16", 2}, {"float32", 4}, {"float64", 8},
};
static_assert(std::size(kDTypes) == static_cast<size_t>(DType::kFloat64) + 1);

std::string ShapeToString(std::span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

bool IsAligned(const char* data, int64_t alignment) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(alignment) == 0;
}

double FromFloat16(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  double value;
  if (exponent == 31) {
    value = fraction == 0 ? std::numeric_limits<double>::infinity()
                          : std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(fraction, -24);
  } else {
    value = std::ldexp(fraction + 1024, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

double FromBFloat16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

template <typename T, typename Convert>
void AppendAs(std::string_view bytes, Convert convert, std::vector<double>& result) {
  for (size_t i = 0; i < bytes.size(); i += sizeof(T)) {
    T value;
    std::memcpy(&value, bytes.data() + i, sizeof(T));
    result.push_back(convert(value));
  }
}

template <typename T>
Array FromValues(DType dtype, std::vector<int64_t> shape, std::span<const T> values) {
  std::string bytes(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  absl::StatusOr<Array> array = Array::Create(dtype, std::move(shape), std::move(bytes));
  if (!array.ok()) std::abort();
  return *std::move(array);
}

template <typename T>
std::span<const T> ViewAs(std::string_view bytes) {
  return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
}

}  // namespace

int64_t ElementSize(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].size; }

std::string_view DTypeName(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].name; }

absl::StatusOr<DType> DTypeFromName(std::string_view name) {
  const auto* found = std::ranges::find(kDTypes, name, &DTypeInfo::name);
  if (found == std::end(kDTypes)) {
    return absl::InvalidArgumentError(absl::StrCat("unknown dtype: '", Text(name), "'"));
  }
  return static_cast<DType>(found - std::begin(kDTypes));
}

absl::StatusOr<int64_t> NumElements(std::span<const int64_t> shape) {
  if (static_cast<int64_t>(shape.size()) > kMaxDims) {
    return absl::InvalidArgumentError(
        absl::StrCat("array has more than ", kMaxDims, " dimensions: ", shape.size()));
  }
  int64_t product = 1;
  bool empty = false;
  for (const int64_t dim : shape) {
    if (dim < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("array dimension is negative: ", ShapeToString(shape)));
    }
    if (dim == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(product, dim, &product)) {
      return absl::InvalidArgumentError(
          absl::StrCat("array shape overflows: ", ShapeToString(shape)));
    }
  }
  return empty ? 0 : product;
}

Array::Array() : Array(DType::kFloat32, {0}, 0, std::make_shared<const std::string>(), 0) {}

Array::Array(DType dtype, std::vector<int64_t> shape, int64_t num_elements,
             std::shared_ptr<const std::string> buffer, size_t offset)
    : dtype_(dtype),
      shape_(std::move(shape)),
      num_elements_(num_elements),
      buffer_(std::move(buffer)),
      bytes_(std::string_view(*buffer_).substr(offset)) {}

absl::StatusOr<Array> Array::Create(DType dtype, std::vector<int64_t> shape, std::string bytes) {
  return Create(dtype, std::move(shape), std::make_shared<const std::string>(std::move(bytes)), 0);
}

absl::StatusOr<Array> Array::Create(DType dtype, std::vector<int64_t> shape,
                                    std::shared_ptr<const std::string> buffer, size_t offset) {
  FEDUMM_ASSIGN_OR_RETURN(const int64_t num_elements, NumElements(shape));
  if (offset > buffer->size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("array starts beyond its buffer: ", offset, " > ", buffer->size()));
  }
  const int64_t num_bytes = static_cast<int64_t>(buffer->size() - offset);
  if (num_bytes % ElementSize(dtype) != 0 || num_bytes / ElementSize(dtype) != num_elements) {
    return absl::InvalidArgumentError(absl::StrCat("array ", Text(DTypeName(dtype)),
                                                   ShapeToString(shape),
                                                   " has the wrong number of bytes: ", num_bytes));
  }
  if (!IsAligned(buffer->data() + offset, ElementSize(dtype))) {
    if (buffer.use_count() == 1) {
      // Nobody else has it: moved within, so that a large array does not take twice its memory.
      const_cast<std::string&>(*buffer).erase(0, offset);
    } else {
      buffer = std::make_shared<const std::string>(*buffer, offset);
    }
    offset = 0;
  }
  return Array(dtype, std::move(shape), num_elements, std::move(buffer), offset);
}

Array Array::FromFloats(std::vector<int64_t> shape, std::span<const float> values) {
  return FromValues(DType::kFloat32, std::move(shape), values);
}

Array Array::FromDoubles(std::vector<int64_t> shape, std::span<const double> values) {
  return FromValues(DType::kFloat64, std::move(shape), values);
}

Array Array::FromDoublesLike(const Array& form, std::span<const double> values) {
  if (static_cast<int64_t>(values.size()) != form.num_elements()) std::abort();
  std::string bytes(form.bytes().size(), '\0');
  StoreElements(form.dtype(), values, bytes.data());
  return Array(form.dtype(), form.shape_, form.num_elements(),
               std::make_shared<const std::string>(std::move(bytes)), 0);
}

absl::StatusOr<std::span<const float>> Array::floats() const {
  if (dtype_ != DType::kFloat32) {
    return absl::FailedPreconditionError(
        absl::StrCat("array is not float32: ", Text(DTypeName(dtype_))));
  }
  return ViewAs<float>(bytes_);
}

absl::StatusOr<std::span<const double>> Array::doubles() const {
  if (dtype_ != DType::kFloat64) {
    return absl::FailedPreconditionError(
        absl::StrCat("array is not float64: ", Text(DTypeName(dtype_))));
  }
  return ViewAs<double>(bytes_);
}

std::vector<double> Array::ToDoubles() const {
  std::vector<double> result;
  result.reserve(num_elements_);
  const auto as_double = [](auto value) { return static_cast<double>(value); };
  switch (dtype_) {
    case DType::kBool:
      // A byte, not a bool: received bytes may hold anything.
      AppendAs<uint8_t>(
          bytes_, [](uint8_t value) { return value != 0 ? 1.0 : 0.0; }, result);
      break;
    case DType::kInt8:
      AppendAs<int8_t>(bytes_, as_double, result);
      break;
    case DType::kInt16:
      AppendAs<int16_t>(bytes_, as_double, result);
      break;
    case DType::kInt32:
      AppendAs<int32_t>(bytes_, as_double, result);
      break;
    case DType::kInt64:
      AppendAs<int64_t>(bytes_, as_double, result);
      break;
    case DType::kUInt8:
      AppendAs<uint8_t>(bytes_, as_double, result);
      break;
    case DType::kUInt16:
      AppendAs<uint16_t>(bytes_, as_double, result);
      break;
    case DType::kUInt32:
      AppendAs<uint32_t>(bytes_, as_double, result);
      break;
    case DType::kUInt64:
      AppendAs<uint64_t>(bytes_, as_double, result);
      break;
    case DType::kFloat16:
      AppendAs<uint16_t>(bytes_, FromFloat16, result);
      break;
    case DType::kBFloat16:
      AppendAs<uint16_t>(bytes_, FromBFloat16, result);
      break;
    case DType::kFloat32:
      AppendAs<float>(bytes_, as_double, result);
      break;
    case DType::kFloat64:
      AppendAs<double>(bytes_, as_double, result);
      break;
  }
  return result;
}

std::string Array::ShapeString() const { return ShapeToString(shape_); }

}  // namespace fedumm
