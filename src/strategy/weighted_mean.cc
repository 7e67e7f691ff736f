#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fedumm/aggregator.h"
#include "fedumm/kernels.h"
#include "strategy/elements.h"
#include "strategy/quoted.h"
#include "strategy/zeroed_arena.h"

namespace fedumm {
namespace {

// Small enough that a block of values and of its sums stays in the first-level cache.
constexpr int64_t kBlock = 512;
// Contributions folded in one pass: the sums then travel to memory and back once for all of them.
constexpr size_t kMaxPending = 4;
constexpr double kMaxWeight = 0x1p40;
constexpr double kMaxMagnitude = 0x1p160;
static_assert(kMaxWeight * kMaxMagnitude < kernels::kMaxValue);

// The exact sum of many vectors of at most kBlock values. A grid's sums exist once they are needed.
class BlockSum {
 public:
  // `largest` bounds |values|; `values` are used up.
  void Add(int64_t n, double largest, double* values, ZeroedArena& arena) {
    if (largest == 0) return;
    for (int grid = kernels::TopGrid(largest); grid >= kernels::kMinGrid; --grid) {
      double*& sums = sums_[grid - kernels::kMinGrid];
      if (sums == nullptr) sums = arena.New(n);
      if (!kernels::AddToGrid(n, grid, values, sums)) return;
    }
  }
  // Writes the sums, each rounded to double.
  void Round(int64_t n, double* totals) const {
    std::array<double, kBlock> errors = {};
    std::fill(totals, totals + n, 0.0);
    for (int g = kernels::kNumGrids - 1; g >= 0; --g) {
      if (sums_[g] == nullptr) continue;
      for (int64_t i = 0; i < n; ++i) {
        // Knuth's two-sum: total + part = sum + error, exactly.
        const double total = totals[i];
        const double part = sums_[g][i];
        const double sum = total + part;
        const double shadow = sum - total;
        errors[i] += (total - (sum - shadow)) + (part - shadow);
        totals[i] = sum;
      }
    }
    for (int64_t i = 0; i < n; ++i) totals[i] += errors[i];
  }

 private:
  std::array<double*, kernels::kNumGrids> sums_ = {};  // in the arena
};

class WeightedMean final : public Aggregator {
 public:
  explicit WeightedMean(const ArrayRecord& manifest) : Aggregator(manifest) {
    for (const auto& [key, array] : manifest) {
      sums_.emplace_back((array.num_elements() + kBlock - 1) / kBlock);
    }
  }

 private:
  struct Pending {
    std::vector<Array> arrays;
    double weight;
  };

  absl::Status DoAdd(const Contribution& contribution) override {
    FEDUMM_RETURN_IF_ERROR(CheckRanges(contribution));
    Pending pending = {.arrays = {}, .weight = contribution.weight};
    for (const auto& [key, array] : contribution.arrays) pending.arrays.push_back(array);
    pending_.push_back(std::move(pending));
    if (pending_.size() == kMaxPending) Fold();
    return absl::OkStatus();
  }

  absl::Status CheckRanges(const Contribution& contribution) const {
    const std::string node = absl::StrCat("node ", contribution.node_id);
    if (num_added() >= kernels::kMaxAddends) {
      return absl::ResourceExhaustedError(
          absl::StrCat(node, ": more than ", kernels::kMaxAddends, " contributions"));
    }
    if (contribution.weight < 1 / kMaxWeight || contribution.weight > kMaxWeight) {
      return absl::InvalidArgumentError(
          absl::StrCat(node, ": weight is outside [2^-40, 2^40]: ", contribution.weight));
    }
    auto want = manifest().begin();
    for (const auto& [key, array] : contribution.arrays) {
      if (const std::string why = RangeError(want->second, array); !why.empty()) {
        return absl::InvalidArgumentError(absl::StrCat(node, ": tensor ", Quoted(key), " ", why));
      }
      ++want;
    }
    return absl::OkStatus();
  }

  static std::string TooLarge(std::span<const double> values, double limit) {
    for (const double value : values) {
      if (std::fabs(value) >= limit) return absl::StrCat("is too large: ", value);
    }
    return "";
  }

  // Why the mean cannot represent `array`; empty if it can.
  static std::string RangeError(const Array& want, const Array& array) {
    switch (array.dtype()) {
      case DType::kBool:
        return array.bytes() == want.bytes() ? "" : "has booleans other than the global ones";
      case DType::kFloat64:
        return TooLarge(*array.doubles(), kMaxMagnitude);
      case DType::kInt64:
      case DType::kUInt64:
        return TooLarge(array.ToDoubles(), 0x1p53);
      default:
        return "";
    }
  }

  void Fold() {
    for (const Pending& pending : pending_) {
      double weight = pending.weight;
      weight_sum_.Add(1, weight, &weight, arena_);
    }
    for (size_t t = 0; t < sums_.size(); ++t) {
      switch (pending_[0].arrays[t].dtype()) {
        case DType::kBool:
          break;
        case DType::kFloat32:
          FoldTensor<float>(t, [&](const Array& array) { return *array.floats(); });
          break;
        case DType::kFloat64:
          FoldTensor<double>(t, [&](const Array& array) { return *array.doubles(); });
          break;
        default:
          FoldTensor<double>(t, [&](const Array& array) { return array.ToDoubles(); });
      }
    }
    pending_.clear();
  }

  // `elements` gives the elements of an array as some range of T.
  template <typename T, typename Elements>
  void FoldTensor(size_t t, Elements elements) {
    std::vector<std::invoke_result_t<Elements, const Array&>> inputs;
    for (const Pending& pending : pending_) inputs.push_back(elements(pending.arrays[t]));
    const int64_t num_elements = pending_[0].arrays[t].num_elements();
    std::array<double, kBlock> values;
    for (int64_t start = 0; start < num_elements; start += kBlock) {
      const int64_t n = std::min(kBlock, num_elements - start);
      BlockSum& sum = sums_[t][start / kBlock];
      for (size_t p = 0; p < inputs.size(); ++p) {
        const T* x = inputs[p].data() + start;
        const double largest = kernels::ScaleToDouble(n, pending_[p].weight, x, values.data());
        sum.Add(n, largest, values.data(), arena_);
      }
    }
  }

  absl::StatusOr<ArrayRecord> DoTakeResult() override {
    if (!pending_.empty()) Fold();
    double total_weight;
    weight_sum_.Round(1, &total_weight);
    ArrayRecord result;
    size_t t = 0;
    for (const auto& [key, array] : manifest()) {
      if (array.dtype() == DType::kBool) {
        result.Set(key, array);
      } else {
        FEDUMM_ASSIGN_OR_RETURN(Array mean, Mean(array, sums_[t], total_weight));
        result.Set(key, std::move(mean));
      }
      ++t;
    }
    return result;
  }

  static absl::StatusOr<Array> Mean(const Array& like, const std::vector<BlockSum>& sums,
                                    double total_weight) {
    std::string bytes(like.bytes().size(), '\0');
    std::array<double, kBlock> totals;
    for (int64_t start = 0; start < like.num_elements(); start += kBlock) {
      const int64_t n = std::min(kBlock, like.num_elements() - start);
      sums[start / kBlock].Round(n, totals.data());
      for (int64_t i = 0; i < n; ++i) totals[i] /= total_weight;
      StoreElements(like.dtype(), {totals.data(), static_cast<size_t>(n)},
                    bytes.data() + start * ElementSize(like.dtype()));
    }
    return Array::Create(like.dtype(), {like.shape().begin(), like.shape().end()},
                         std::move(bytes));
  }

  ZeroedArena arena_;
  std::vector<Pending> pending_;
  std::vector<std::vector<BlockSum>> sums_;  // for each tensor its blocks
  BlockSum weight_sum_;
};

}  // namespace

std::unique_ptr<Aggregator> NewWeightedMean(const ArrayRecord& manifest) {
  return std::make_unique<WeightedMean>(manifest);
}

}  // namespace fedumm
