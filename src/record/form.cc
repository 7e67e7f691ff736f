#include "record/form.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace fedumm {
namespace {

// A float is NaN or infinite if its exponent bits are all ones. Checked in runs, which the compiler
// vectorises, then the index is looked up.
template <typename Bits, Bits kExponent>
int64_t FirstWithExponent(std::string_view bytes) {
  constexpr int64_t kRun = 1024;
  const auto n = static_cast<int64_t>(bytes.size() / sizeof(Bits));
  const auto is_bad = [data = bytes.data()](int64_t i) {
    Bits bits;
    std::memcpy(&bits, data + i * static_cast<int64_t>(sizeof(Bits)), sizeof(bits));
    return static_cast<Bits>((bits & kExponent) == kExponent);
  };
  for (int64_t start = 0; start < n; start += kRun) {
    const int64_t end = std::min(n, start + kRun);
    Bits bad = 0;
    for (int64_t i = start; i < end; ++i) bad |= is_bad(i);
    if (bad == 0) continue;
    for (int64_t i = start; i < end; ++i) {
      if (is_bad(i) != 0) return i;
    }
  }
  return -1;
}

absl::StatusOr<Array> InFormOf(const std::string& key, const Array& want, const Array& array) {
  const auto error = [&](auto... what) {
    return absl::InvalidArgumentError(absl::StrCat("has tensor ", Quoted(key), " ", what...));
  };
  if (!SameShape(array, want)) {
    return error("of shape ", array.ShapeString(), ", not ", want.ShapeString());
  }
  if (array.dtype() == want.dtype()) {
    if (const int64_t index = FirstNonFinite(array); index >= 0) {
      return error("with NaN or infinity at index ", index);
    }
    return array;
  }
  if (!IsFloat(array.dtype()) || !IsFloat(want.dtype())) {
    return error("of dtype ", Text(DTypeName(array.dtype())), ", not ",
                 Text(DTypeName(want.dtype())));
  }
  Array converted = Array::FromDoublesLike(want, array.ToDoubles());
  if (const int64_t index = FirstNonFinite(converted); index >= 0) {
    return error("that is not finite as ", Text(DTypeName(want.dtype())), " at index ", index);
  }
  return converted;
}

}  // namespace

bool IsFloat(DType dtype) {
  return dtype == DType::kFloat16 || dtype == DType::kBFloat16 || dtype == DType::kFloat32 ||
         dtype == DType::kFloat64;
}

bool SameShape(const Array& a, const Array& b) { return std::ranges::equal(a.shape(), b.shape()); }

bool SameForm(const Array& a, const Array& b) { return a.dtype() == b.dtype() && SameShape(a, b); }

bool WidensExactly(DType from, DType to) {
  if (!IsFloat(from) || !IsFloat(to)) return false;
  return from == to || ElementSize(from) < ElementSize(to);
}

Array Widened(const Array& array, DType dtype) {
  const absl::StatusOr<Array> form =
      Array::Create(dtype, {array.shape().begin(), array.shape().end()},
                    std::string(array.num_elements() * ElementSize(dtype), '\0'));
  return Array::FromDoublesLike(*form, array.ToDoubles());
}

int64_t FirstNonFinite(const Array& array) {
  switch (array.dtype()) {
    case DType::kFloat16:
      return FirstWithExponent<uint16_t, 0x7c00>(array.bytes());
    case DType::kBFloat16:
      return FirstWithExponent<uint16_t, 0x7f80>(array.bytes());
    case DType::kFloat32:
      return FirstWithExponent<uint32_t, 0x7f800000u>(array.bytes());
    case DType::kFloat64:
      return FirstWithExponent<uint64_t, 0x7ff0000000000000u>(array.bytes());
    default:
      return -1;
  }
}

absl::StatusOr<ArrayRecord> InFormOf(const ArrayRecord& model, const ArrayRecord& arrays) {
  for (const auto& [key, array] : arrays) {
    if (!model.contains(key)) {
      return absl::InvalidArgumentError(absl::StrCat("has unknown tensor ", Quoted(key)));
    }
  }
  ArrayRecord result;
  for (const auto& [key, want] : model) {
    const Array* array = arrays.Find(key);
    if (array == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("lacks tensor ", Quoted(key)));
    }
    FEDUMM_ASSIGN_OR_RETURN(Array converted, InFormOf(key, want, *array));
    result.Set(key, std::move(converted));
  }
  return result;
}

}  // namespace fedumm
