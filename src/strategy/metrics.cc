#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "fedumm/strategy.h"
#include "strategy/reply.h"

namespace fedumm {
namespace {

struct Weighted {
  double value;
  double weight;
  auto operator<=>(const Weighted&) const = default;
};

// Sorting by value makes the sum independent of the order of the replies. Nothing if no value is
// finite.
std::optional<double> Mean(std::vector<Weighted> values) {
  std::erase_if(values, [](const Weighted& w) { return !std::isfinite(w.value); });
  if (values.empty()) return std::nullopt;
  std::sort(values.begin(), values.end(), [](const Weighted& a, const Weighted& b) {
    return std::pair(a.value, a.weight) < std::pair(b.value, b.weight);
  });
  double sum = 0;
  double total = 0;
  for (const Weighted& w : values) {
    sum += w.value * w.weight;
    total += w.weight;
  }
  return sum / total;
}

struct Numbers {
  bool is_list = false;
  std::vector<double> values;
};

Numbers ToNumbers(const MetricValue& metric) {
  return std::visit(
      [](const auto& value) -> Numbers {
        if constexpr (std::is_arithmetic_v<std::decay_t<decltype(value)>>) {
          return {.is_list = false, .values = {static_cast<double>(value)}};
        } else {
          return {.is_list = true, .values = {value.begin(), value.end()}};
        }
      },
      metric);
}

// The mean of one metric over the replies that have it in the form of the first.
std::optional<MetricValue> MeanOfMetric(const std::vector<const NodeMetrics*>& replies,
                                        const std::string& key, const std::string& weight_key) {
  std::optional<Numbers> form;
  std::vector<std::vector<Weighted>> columns;
  for (const NodeMetrics* reply : replies) {
    const MetricValue* metric = reply->metrics.Find(key);
    const absl::StatusOr<double> weight = ReadWeight(reply->metrics, weight_key);
    if (metric == nullptr || !weight.ok()) continue;
    Numbers numbers = ToNumbers(*metric);
    if (!form) {
      form = numbers;
      columns.resize(numbers.values.size());
    }
    if (numbers.is_list != form->is_list || numbers.values.size() != columns.size()) continue;
    for (size_t i = 0; i < columns.size(); ++i) {
      columns[i].push_back({numbers.values[i], *weight});
    }
  }
  std::vector<double> means;
  for (std::vector<Weighted>& column : columns) {
    const std::optional<double> mean = Mean(std::move(column));
    if (!mean) return std::nullopt;
    means.push_back(*mean);
  }
  if (!form) return std::nullopt;
  if (form->is_list) return means;
  return means[0];
}

}  // namespace

MetricRecord WeightedMetricsMean(const std::vector<NodeMetrics>& replies,
                                 const std::string& weighted_by_key) {
  std::vector<const NodeMetrics*> by_node;
  for (const NodeMetrics& reply : replies) by_node.push_back(&reply);
  std::sort(by_node.begin(), by_node.end(),
            [](const NodeMetrics* a, const NodeMetrics* b) { return a->node_id < b->node_id; });
  MetricRecord result;
  for (const NodeMetrics* reply : by_node) {
    for (const auto& [key, value] : reply->metrics) {
      if (key == weighted_by_key || result.contains(key)) continue;
      std::optional<MetricValue> mean = MeanOfMetric(by_node, key, weighted_by_key);
      if (mean) result.Set(key, *std::move(mean));
    }
  }
  return result;
}

MetricRecord MetricsOverNodes(const std::vector<NodeMetrics>& replies,
                              const std::string& weighted_by_key) {
  MetricRecord result = WeightedMetricsMean(replies, weighted_by_key);
  std::map<std::string, std::vector<double>> values;
  for (const NodeMetrics& reply : replies) {
    for (const auto& [key, metric] : reply.metrics) {
      const Numbers numbers = ToNumbers(metric);
      if (key == weighted_by_key || numbers.is_list || !std::isfinite(numbers.values[0])) continue;
      values[key].push_back(numbers.values[0]);
    }
  }
  for (auto& [key, column] : values) {
    std::sort(column.begin(), column.end());  // any order of the replies gives the same sums
    const auto count = static_cast<double>(column.size());
    double mean = 0;
    for (const double value : column) mean += value / count;
    double variance = 0;
    for (const double value : column) variance += (value - mean) * (value - mean) / count;
    result.Set(key + "-mean", mean);
    result.Set(key + "-min", column.front());
    result.Set(key + "-max", column.back());
    result.Set(key + "-std", std::sqrt(variance));
  }
  return result;
}

}  // namespace fedumm
