#include "record/elements.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace fedumm {
namespace {

// The bits of a 16-bit float whose significand has `precision` bits (the hidden one included) and
// whose smallest normal number is 2^min_exponent.
template <int precision, int min_exponent, uint16_t kInfinity>
uint16_t ToFloat16Bits(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return sign | kInfinity | (1 << (precision - 2));
  const double magnitude = std::fabs(value);
  if (magnitude == 0) return sign;
  if (std::isinf(magnitude)) return sign | kInfinity;
  // The exponent of one unit in the last place; subnormal numbers share that of the smallest
  // normal.
  constexpr int kMinUnit = min_exponent - (precision - 1);
  const int unit = std::max(std::ilogb(magnitude) - (precision - 1), kMinUnit);
  const int units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, -unit)));
  // A carry out of the significand, and out of the subnormal range, lands in the exponent as it
  // should.
  const int bits = ((unit - kMinUnit) << (precision - 1)) + units;
  return sign | static_cast<uint16_t>(std::min<int>(bits, kInfinity));
}

template <typename T, typename Convert>
void StoreAs(std::span<const double> values, char* out, Convert convert) {
  for (const double value : values) {
    const T element = convert(value);
    std::memcpy(out, &element, sizeof(element));
    out += sizeof(element);
  }
}

template <typename T>
void StoreIntegers(std::span<const double> values, char* out) {
  // 2^digits is exact as a double; the largest integer of 64 bits is not.
  static const double limit = std::ldexp(1.0, std::numeric_limits<T>::digits);
  StoreAs<T>(values, out, [](double value) {
    const double rounded = std::nearbyint(value);
    if (std::isnan(value)) return T{0};
    if (rounded >= limit) return std::numeric_limits<T>::max();
    return static_cast<T>(std::max(rounded, static_cast<double>(std::numeric_limits<T>::min())));
  });
}

}  // namespace

void StoreElements(DType dtype, std::span<const double> values, char* out) {
  switch (dtype) {
    case DType::kFloat64:
      return StoreAs<double>(values, out, [](double value) { return value; });
    case DType::kFloat32:
      return StoreAs<float>(values, out, [](double value) { return static_cast<float>(value); });
    case DType::kFloat16:
      return StoreAs<uint16_t>(values, out, ToFloat16Bits<11, -14, 0x7c00>);
    case DType::kBFloat16:
      return StoreAs<uint16_t>(values, out, ToFloat16Bits<8, -126, 0x7f80>);
    case DType::kInt8:
      return StoreIntegers<int8_t>(values, out);
    case DType::kInt16:
      return StoreIntegers<int16_t>(values, out);
    case DType::kInt32:
      return StoreIntegers<int32_t>(values, out);
    case DType::kInt64:
      return StoreIntegers<int64_t>(values, out);
    case DType::kUInt8:
      return StoreIntegers<uint8_t>(values, out);
    case DType::kUInt16:
      return StoreIntegers<uint16_t>(values, out);
    case DType::kUInt32:
      return StoreIntegers<uint32_t>(values, out);
    case DType::kUInt64:
      return StoreIntegers<uint64_t>(values, out);
    case DType::kBool:
      return StoreAs<uint8_t>(values, out,
                              [](double value) { return static_cast<uint8_t>(value != 0); });
  }
}

}  // namespace fedumm
