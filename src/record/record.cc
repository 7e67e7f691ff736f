#include "fedumm/record.h"

#include <type_traits>

namespace fedumm {
namespace {

template <typename Value>
double NumberIn(const Record<Value>& record, std::string_view key, double fallback) {
  const Value* value = record.Find(key);
  if (value == nullptr) return fallback;
  return std::visit(
      [fallback](const auto& held) -> double {
        if constexpr (std::is_arithmetic_v<std::decay_t<decltype(held)>>) {
          return static_cast<double>(held);
        } else {
          return fallback;
        }
      },
      *value);
}

}  // namespace

double NumberOr(const ConfigRecord& record, std::string_view key, double fallback) {
  return NumberIn(record, key, fallback);
}

double NumberOr(const MetricRecord& record, std::string_view key, double fallback) {
  return NumberIn(record, key, fallback);
}

std::string TextOr(const ConfigRecord& record, std::string_view key, std::string_view fallback) {
  const ConfigValue* value = record.Find(key);
  const std::string* text = value == nullptr ? nullptr : std::get_if<std::string>(value);
  return text == nullptr ? std::string(fallback) : *text;
}

}  // namespace fedumm
