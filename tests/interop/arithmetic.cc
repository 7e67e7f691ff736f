#include "interop/arithmetic.h"

#include <vector>

namespace fedumm::interop {

ArrayRecord InitialArrays() {
  std::vector<float> w(6);
  std::vector<double> bias(4);
  std::vector<float> big(1'400'000);
  for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i);
  for (size_t i = 0; i < bias.size(); ++i) bias[i] = 0.5 * static_cast<double>(i);
  for (size_t i = 0; i < big.size(); ++i) big[i] = static_cast<float>(i % 7);
  const auto elements = static_cast<int64_t>(big.size());
  return {{"w", Array::FromFloats({2, 3}, w)},
          {"bias", Array::FromDoubles({4}, bias)},
          {"big", Array::FromFloats({elements}, big)}};
}

ArrayRecord Moved(const ArrayRecord& arrays, double step) {
  ArrayRecord moved;
  for (const auto& [key, array] : arrays) {
    std::vector<int64_t> shape(array.shape().begin(), array.shape().end());
    std::vector<double> values = array.ToDoubles();
    for (double& value : values) value += step;
    if (array.dtype() == DType::kFloat32) {
      const std::vector<float> narrow(values.begin(), values.end());
      moved.Set(key, Array::FromFloats(std::move(shape), narrow));
    } else {
      moved.Set(key, Array::FromDoubles(std::move(shape), values));
    }
  }
  return moved;
}

int64_t Weight(int64_t partition) {
  if (partition < 2) return partition == 0 ? 1 : 3;
  return int64_t{1} << partition;
}

double Step(int64_t partition, double scale, double offset) {
  return scale * (static_cast<double>(partition) + offset);
}

double MeanStep(int64_t nodes, double scale, double offset) {
  double sum = 0;
  double weights = 0;
  for (int64_t partition = 0; partition < nodes; ++partition) {
    const auto weight = static_cast<double>(Weight(partition));
    sum += weight * Step(partition, scale, offset);
    weights += weight;
  }
  return sum / weights;
}

double Sum(const ArrayRecord& arrays) {
  double sum = 0;
  for (const auto& [key, array] : arrays) {
    for (const double value : array.ToDoubles()) sum += value;
  }
  return sum;
}

}  // namespace fedumm::interop
