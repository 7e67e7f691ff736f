#include "fedumm/aggregator.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

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

// The shares of a contribution in the order of `aligned`, which has the same keys.
std::vector<double> AlignedShares(const Contribution& contribution, const ArrayRecord& aligned) {
  if (contribution.tensor_shares.empty()) return {};
  std::map<std::string_view, double> share_of;
  size_t i = 0;
  for (const auto& [key, array] : contribution.arrays) {
    share_of[key] = contribution.tensor_shares[i++];
  }
  std::vector<double> shares;
  for (const auto& [key, array] : aligned) shares.push_back(share_of[key]);
  return shares;
}

absl::Status CheckShares(const Contribution& contribution) {
  const std::span<const double> shares = contribution.tensor_shares;
  if (shares.empty()) return absl::OkStatus();
  const std::string node = absl::StrCat("node ", contribution.node_id);
  if (shares.size() != contribution.arrays.size()) {
    return absl::InvalidArgumentError(absl::StrCat(node, ": ", shares.size(), " shares for ",
                                                   contribution.arrays.size(), " tensors"));
  }
  for (const double share : shares) {
    if (!(share >= 0 && share <= 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat(node, ": a tensor's share must be from 0 to 1: ", share));
    }
  }
  return absl::OkStatus();
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
  FEDUMM_RETURN_IF_ERROR(CheckShares(contribution));
  FEDUMM_RETURN_IF_ERROR(Check(contribution));
  if (IsAligned(manifest_, contribution.arrays)) {
    FEDUMM_RETURN_IF_ERROR(DoAdd(contribution));
  } else {
    const ArrayRecord aligned = Aligned(manifest_, contribution.arrays);
    const std::vector<double> shares = AlignedShares(contribution, aligned);
    FEDUMM_RETURN_IF_ERROR(DoAdd({.node_id = contribution.node_id,
                                  .arrays = aligned,
                                  .weight = contribution.weight,
                                  .tensor_shares = shares,
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
