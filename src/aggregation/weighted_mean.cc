#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "aggregation/zeroed_arena.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "fedumm/aggregator.h"
#include "kernels/exact_sum.h"
#include "record/elements.h"

namespace fedumm {
namespace {

// Small enough that a block of values and of its sums stays in the first-level cache.
constexpr int64_t kBlock = 512;
// A window that moves to grids adds two values there for each sum, in the place of at least one.
constexpr int64_t kMaxContributions = kernels::kMaxAddends - 1;
constexpr double kMaxWeight = 0x1p40;
constexpr double kMaxMagnitude = 0x1p160;
static_assert(kMaxWeight * kMaxMagnitude < kernels::kMaxValue);

// The exact sums of many vectors of at most kBlock values, as parts on grids. A grid's parts exist
// once they are needed.
class GridSums {
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
  // Writes the sums, each rounded once to double.
  void Round(int64_t n, double* totals) const {
    for (int64_t i = 0; i < n; ++i) totals[i] = RoundOne(i);
  }

 private:
  double RoundOne(int64_t i) const {
    // Carries from grid to grid make every part smaller than half a step of the next, so that
    // parts do not overlap.
    std::array<double, kernels::kNumGrids + 1> parts;
    double carry = 0;
    for (int g = 0; g < kernels::kNumGrids; ++g) {
      const double part = (sums_[g] == nullptr ? 0 : sums_[g][i]) + carry;
      const double shift = std::ldexp(1.5, 52 + kernels::kGridBits * (g + kernels::kMinGrid + 1));
      carry = (part + shift) - shift;
      parts[g] = part - carry;
    }
    parts[kernels::kNumGrids] = carry;
    // From the top, until an addition rounds; what is below then only matters to a tie.
    double total = 0;
    double error = 0;
    int g = kernels::kNumGrids;
    for (; g >= 0 && error == 0; --g) {
      const double sum = total + parts[g];
      error = parts[g] - (sum - total);
      total = sum;
    }
    while (g >= 0 && parts[g] == 0) --g;
    if (g < 0 || error == 0 || (error < 0) != (parts[g] < 0)) return total;
    const double next = total + 2 * error;
    return next - total == 2 * error ? next : total;
  }

  std::array<double*, kernels::kNumGrids> sums_ = {};  // in the arena
};

// The exact sum of many vectors of at most kBlock values, in one word each if they are of similar
// size: a window, whose place the first values choose. Values that do not fit move all to grids.
class BlockSum {
 public:
  // As GridSums::Add.
  void Add(int64_t n, double largest, double* values, ZeroedArena& arena) {
    if (largest == 0) return;
    if (grids_ == nullptr && AddToWindow(n, largest, values, arena)) return;
    if (grids_ == nullptr) MoveToGrids(n, arena);
    grids_->Add(n, largest, values, arena);
  }
  void Round(int64_t n, double* totals) const {
    if (grids_ != nullptr) {
      grids_->Round(n, totals);
    } else if (window_ != nullptr) {
      const double step = std::ldexp(1.0, step_exponent_);
      // The conversion is the one rounding.
      for (int64_t i = 0; i < n; ++i) totals[i] = static_cast<double>(window_[i]) * step;
    } else {
      std::fill(totals, totals + n, 0.0);
    }
  }

 private:
  // Room above the first values: for so many more of their size, or for larger ones.
  static constexpr int kHeadroomBits = 12;
  // Grids would lose what is finer.
  static constexpr int kMinStep = kernels::kGridBits * kernels::kMinGrid;

  bool AddToWindow(int64_t n, double largest, const double* values, ZeroedArena& arena) {
    if (window_ == nullptr) {
      const int exponent = std::ilogb(largest) + 1 + kHeadroomBits - kernels::kWindowBits;
      if (exponent < kMinStep) return false;
      step_exponent_ = exponent;
      window_ = arena.New<int64_t>(n);
    }
    const double bound = bound_ + largest;
    if (bound >= std::ldexp(1.0, kernels::kWindowBits + step_exponent_)) return false;
    if (!kernels::AddToWindow(n, step_exponent_, values, window_)) return false;
    bound_ = bound;
    return true;
  }

  void MoveToGrids(int64_t n, ZeroedArena& arena) {
    grids_ = std::make_unique<GridSums>();
    if (window_ == nullptr) return;
    // A sum has more bits than a double holds: in two parts.
    constexpr int kLowBits = 31;
    std::array<double, kBlock> high, low;
    double largest_high = 0, largest_low = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t upper = window_[i] >> kLowBits;
      high[i] = std::ldexp(static_cast<double>(upper), kLowBits + step_exponent_);
      low[i] = std::ldexp(static_cast<double>(window_[i] - upper * (int64_t{1} << kLowBits)),
                          step_exponent_);
      largest_high = std::max(largest_high, std::fabs(high[i]));
      largest_low = std::max(largest_low, std::fabs(low[i]));
    }
    grids_->Add(n, largest_high, high.data(), arena);
    grids_->Add(n, largest_low, low.data(), arena);
    arena.Reuse(window_, n);
    window_ = nullptr;
  }

  int64_t* window_ = nullptr;  // in the arena
  int step_exponent_ = 0;
  double bound_ = 0;  // of the magnitudes of the window's sums
  std::unique_ptr<GridSums> grids_;
};

class WeightedMean final : public Aggregator {
 public:
  explicit WeightedMean(const ArrayRecord& manifest)
      : Aggregator(manifest), weight_sums_(manifest.size()) {
    for (const auto& [key, array] : manifest) {
      sums_.emplace_back((array.num_elements() + kBlock - 1) / kBlock);
    }
  }

 private:
  absl::Status DoAdd(const Contribution& contribution) override {
    FEDUMM_RETURN_IF_ERROR(CheckRanges(contribution));
    size_t t = 0;
    for (const auto& [key, array] : contribution.arrays) {
      const double weight = WeightOf(contribution, t);
      if (weight > 0) {
        double addend = weight;
        weight_sums_[t].Add(1, weight, &addend, arena_);
        AddTensor(array, weight, sums_[t]);
      }
      ++t;
    }
    return absl::OkStatus();
  }

  // Of the tensor number `t`.
  static double WeightOf(const Contribution& contribution, size_t t) {
    return contribution.tensor_shares.empty() ? contribution.weight
                                              : contribution.weight * contribution.tensor_shares[t];
  }

  absl::Status CheckRanges(const Contribution& contribution) const {
    const std::string node = absl::StrCat("node ", contribution.node_id);
    if (num_added() >= kMaxContributions) {
      return absl::ResourceExhaustedError(
          absl::StrCat(node, ": more than ", kMaxContributions, " contributions"));
    }
    auto want = manifest().begin();
    size_t t = 0;
    for (const auto& [key, array] : contribution.arrays) {
      const double weight = WeightOf(contribution, t++);
      if (weight != 0 && (weight < 1 / kMaxWeight || weight > kMaxWeight)) {
        return absl::InvalidArgumentError(
            absl::StrCat(node, ": weight is outside [2^-40, 2^40]: ", weight));
      }
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

  void AddTensor(const Array& array, double weight, std::vector<BlockSum>& sums) {
    switch (array.dtype()) {
      case DType::kBool:
        return;
      case DType::kFloat32:
        return AddElements(*array.floats(), weight, sums);
      case DType::kFloat64:
        return AddElements(*array.doubles(), weight, sums);
      default:
        return AddElements(std::span<const double>(array.ToDoubles()), weight, sums);
    }
  }

  template <typename T>
  void AddElements(std::span<const T> elements, double weight, std::vector<BlockSum>& sums) {
    const auto num_elements = static_cast<int64_t>(elements.size());
    std::array<double, kBlock> values;
    for (int64_t start = 0; start < num_elements; start += kBlock) {
      const int64_t n = std::min(kBlock, num_elements - start);
      const double largest =
          kernels::ScaleToDouble(n, weight, elements.data() + start, values.data());
      sums[start / kBlock].Add(n, largest, values.data(), arena_);
    }
  }

  absl::StatusOr<ArrayRecord> DoTakeResult() override {
    ArrayRecord result;
    size_t t = 0;
    for (const auto& [key, array] : manifest()) {
      double total_weight;
      weight_sums_[t].Round(1, &total_weight);
      if (array.dtype() == DType::kBool || total_weight == 0) {
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
  std::vector<std::vector<BlockSum>> sums_;  // for each tensor its blocks
  std::vector<BlockSum> weight_sums_;        // for each tensor
};

}  // namespace

std::unique_ptr<Aggregator> NewWeightedMean(const ArrayRecord& manifest) {
  return std::make_unique<WeightedMean>(manifest);
}

}  // namespace fedumm
