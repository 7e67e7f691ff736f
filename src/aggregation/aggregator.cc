#include "fedumm/aggregator.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "record/form.h"

namespace fedumm {
namespace {

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
  if (!SameShape(array, want)) {
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
