#include "fedumm/aggregator.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "fedumm/kernels.h"

namespace fedumm {
namespace {

// Index of the first element of a 16-bit float array whose exponent bits are all ones, or -1.
int64_t FirstNonFinite16(std::string_view bytes, uint16_t exponent) {
  for (size_t i = 0; i < bytes.size(); i += 2) {
    uint16_t bits;
    std::memcpy(&bits, bytes.data() + i, sizeof(bits));
    if ((bits & exponent) == exponent) return static_cast<int64_t>(i / 2);
  }
  return -1;
}

int64_t FirstNonFinite(const Array& array) {
  switch (array.dtype()) {
    case DType::kFloat32:
      return kernels::FirstNonFinite(array.num_elements(), array.floats()->data());
    case DType::kFloat64:
      return kernels::FirstNonFinite(array.num_elements(), array.doubles()->data());
    case DType::kFloat16:
      return FirstNonFinite16(array.bytes(), 0x7c00);
    case DType::kBFloat16:
      return FirstNonFinite16(array.bytes(), 0x7f80);
    default:
      return -1;
  }
}

// Why the two records do not have the same keys in the same order; empty if they do.
std::string KeyMismatch(const ArrayRecord& manifest, const ArrayRecord& arrays) {
  for (const auto& [key, array] : manifest) {
    if (!arrays.contains(key)) return absl::StrCat("lacks tensor ", Quoted(key));
  }
  for (const auto& [key, array] : arrays) {
    if (!manifest.contains(key)) return absl::StrCat("has unknown tensor ", Quoted(key));
  }
  auto want = manifest.begin();
  for (const auto& [key, array] : arrays) {
    if (key != want->first) {
      return absl::StrCat("has tensor ", Quoted(key), " out of order, in the place of ",
                          Quoted(want->first));
    }
    ++want;
  }
  return "";
}

// Why `array` cannot stand for `want`; empty if it can.
std::string ArrayMismatch(const Array& want, const Array& array) {
  if (array.dtype() != want.dtype()) {
    return absl::StrCat("has dtype ", Text(DTypeName(array.dtype())), ", not ",
                        Text(DTypeName(want.dtype())));
  }
  if (!std::equal(array.shape().begin(), array.shape().end(), want.shape().begin(),
                  want.shape().end())) {
    return absl::StrCat("has shape ", array.ShapeString(), ", not ", want.ShapeString());
  }
  if (const int64_t index = FirstNonFinite(array); index >= 0) {
    return absl::StrCat("has NaN or infinity at index ", index);
  }
  return "";
}

}  // namespace

Aggregator::Aggregator(const ArrayRecord& manifest) : manifest_(manifest) {}

absl::Status Aggregator::Add(const Contribution& contribution) {
  const std::string node = absl::StrCat("node ", contribution.node_id);
  if (!(std::isfinite(contribution.weight) && contribution.weight > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat(node, ": weight must be positive and finite: ", contribution.weight));
  }
  if (const std::string why = KeyMismatch(manifest_, contribution.arrays); !why.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(node, " ", why));
  }
  auto want = manifest_.begin();
  for (const auto& [key, array] : contribution.arrays) {
    if (const std::string why = ArrayMismatch(want->second, array); !why.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(node, ": tensor ", Quoted(key), " ", why));
    }
    ++want;
  }
  FEDUMM_RETURN_IF_ERROR(DoAdd(contribution));
  ++num_added_;
  return absl::OkStatus();
}

absl::StatusOr<ArrayRecord> Aggregator::TakeResult() && {
  if (num_added_ == 0) return absl::FailedPreconditionError("nothing was accepted to aggregate");
  return DoTakeResult();
}

}  // namespace fedumm
