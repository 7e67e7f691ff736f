#include "fedumm/aggregator.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "record/form.h"

namespace fedumm {
namespace {

// Why the two records do not have the same keys; empty if they do.
std::string KeyMismatch(const ArrayRecord& manifest, const ArrayRecord& arrays) {
  for (const auto& [key, array] : manifest) {
    if (!arrays.contains(key)) return absl::StrCat("lacks tensor ", Quoted(key));
  }
  for (const auto& [key, array] : arrays) {
    if (!manifest.contains(key)) return absl::StrCat("has unknown tensor ", Quoted(key));
  }
  return "";
}

// Why `array` cannot stand for `want`; empty if it can.
std::string ArrayMismatch(const Array& want, const Array& array) {
  if (array.dtype() != want.dtype() && !WidensExactly(array.dtype(), want.dtype())) {
    return absl::StrCat("has dtype ", Text(DTypeName(array.dtype())), ", not ",
                        Text(DTypeName(want.dtype())));
  }
  if (!SameShape(array, want)) {
    return absl::StrCat("has shape ", array.ShapeString(), ", not ", want.ShapeString());
  }
  if (const int64_t index = FirstNonFinite(array); index >= 0) {
    return absl::StrCat("has NaN or infinity at index ", index);
  }
  return "";
}

// Whether `array` has to be converted to stand for `want`.
bool IsNarrower(const Array& array, const Array& want) {
  return array.dtype() != want.dtype() && WidensExactly(array.dtype(), want.dtype());
}

// Whether the arrays are those of the manifest, in its order and with its dtypes.
bool IsAligned(const ArrayRecord& manifest, const ArrayRecord& arrays) {
  return std::ranges::equal(manifest, arrays, [](const auto& want, const auto& got) {
    return want.first == got.first && !IsNarrower(got.second, want.second);
  });
}

// The arrays as DoAdd is given them.
ArrayRecord Aligned(const ArrayRecord& manifest, const ArrayRecord& arrays) {
  ArrayRecord aligned;
  for (const auto& [key, want] : manifest) {
    const Array* array = arrays.Find(key);
    if (array == nullptr) continue;
    aligned.Set(key, IsNarrower(*array, want) ? Widened(*array, want.dtype()) : *array);
  }
  for (const auto& [key, array] : arrays) {
    if (!manifest.contains(key)) aligned.Set(key, array);
  }
  return aligned;
}

}  // namespace

const MetricRecord& Contribution::NoMetrics() {
  static const MetricRecord none;
  return none;
}

const RecordDict& Contribution::NoContent() {
  static const RecordDict none;
  return none;
}

Aggregator::Aggregator(const ArrayRecord& manifest) : manifest_(manifest) {}

absl::Status Aggregator::Check(const Contribution& contribution) const {
  const std::string node = absl::StrCat("node ", contribution.node_id);
  if (const std::string why = KeyMismatch(manifest_, contribution.arrays); !why.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(node, " ", why));
  }
  for (const auto& [key, array] : contribution.arrays) {
    if (const std::string why = ArrayMismatch(*manifest_.Find(key), array); !why.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(node, ": tensor ", Quoted(key), " ", why));
    }
  }
  return absl::OkStatus();
}

absl::Status Aggregator::Add(const Contribution& contribution) {
  if (!(std::isfinite(contribution.weight) && contribution.weight > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("node ", contribution.node_id,
                     ": weight must be positive and finite: ", contribution.weight));
  }
  FEDUMM_RETURN_IF_ERROR(Check(contribution));
  if (IsAligned(manifest_, contribution.arrays)) {
    FEDUMM_RETURN_IF_ERROR(DoAdd(contribution));
  } else {
    const ArrayRecord aligned = Aligned(manifest_, contribution.arrays);
    FEDUMM_RETURN_IF_ERROR(DoAdd({.node_id = contribution.node_id,
                                  .arrays = aligned,
                                  .weight = contribution.weight,
                                  .metrics = contribution.metrics,
                                  .content = contribution.content}));
  }
  ++num_added_;
  return absl::OkStatus();
}

absl::StatusOr<ArrayRecord> Aggregator::TakeResult() && {
  if (num_added_ == 0) return absl::FailedPreconditionError("nothing was accepted to aggregate");
  return DoTakeResult();
}

}  // namespace fedumm
