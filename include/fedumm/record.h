// Flower's records: ordered maps from names to arrays, metrics and configuration values. Values;
// not synchronised.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "fedumm/array.h"

namespace fedumm {

// Raw bytes in a ConfigRecord, told apart from text.
struct Bytes {
  std::string value;
  friend bool operator==(const Bytes&, const Bytes&) = default;
};

using MetricValue = std::variant<double, int64_t, uint64_t, std::vector<double>,
                                 std::vector<int64_t>, std::vector<uint64_t>>;
using ConfigValue = std::variant<double, int64_t, uint64_t, bool, std::string, Bytes,
                                 std::vector<double>, std::vector<int64_t>, std::vector<uint64_t>,
                                 std::vector<bool>, std::vector<std::string>, std::vector<Bytes>>;

// A map that keeps the order of insertion, which Flower's hashes and state dicts depend on. Look-up
// is O(log n).
template <typename Value>
class Record {
 public:
  using Item = std::pair<std::string, Value>;

  Record() = default;
  Record(std::initializer_list<Item> items) {
    for (const Item& item : items) Set(item.first, item.second);
  }

  // Replaces the value in place if the key is there, appends otherwise.
  void Set(std::string_view key, Value value) {
    if (const auto it = index_.find(key); it != index_.end()) {
      items_[it->second].second = std::move(value);
      return;
    }
    index_.emplace(std::string(key), items_.size());
    items_.emplace_back(std::string(key), std::move(value));
  }
  // nullptr if the key is absent. Valid until the next Set.
  const Value* Find(std::string_view key) const {
    const auto it = index_.find(key);
    return it == index_.end() ? nullptr : &items_[it->second].second;
  }
  bool contains(std::string_view key) const { return Find(key) != nullptr; }
  size_t size() const { return items_.size(); }
  bool empty() const { return items_.empty(); }
  auto begin() const { return items_.begin(); }
  auto end() const { return items_.end(); }

  // Order counts.
  friend bool operator==(const Record& a, const Record& b) { return a.items_ == b.items_; }

 private:
  std::vector<Item> items_;
  std::map<std::string, size_t, std::less<>> index_;
};

using ArrayRecord = Record<Array>;
using MetricRecord = Record<MetricValue>;
using ConfigRecord = Record<ConfigValue>;
using AnyRecord = std::variant<ArrayRecord, MetricRecord, ConfigRecord>;

// The content of a message, and the state of a Context: named records in order.
class RecordDict : public Record<AnyRecord> {
 public:
  using Record<AnyRecord>::Record;

  // The record of that name and kind, or nullptr.
  const ArrayRecord* FindArrays(std::string_view name) const { return FindAs<ArrayRecord>(name); }
  const MetricRecord* FindMetrics(std::string_view name) const {
    return FindAs<MetricRecord>(name);
  }
  const ConfigRecord* FindConfig(std::string_view name) const { return FindAs<ConfigRecord>(name); }

 private:
  template <typename Kind>
  const Kind* FindAs(std::string_view name) const {
    const AnyRecord* record = Find(name);
    return record == nullptr ? nullptr : std::get_if<Kind>(record);
  }
};

// A numeric value of a record as a double (bool counts as 0 or 1), or `fallback` if the key is
// absent or no number.
double NumberOr(const ConfigRecord& record, std::string_view key, double fallback);
double NumberOr(const MetricRecord& record, std::string_view key, double fallback);
// The text of a record, or `fallback`.
std::string TextOr(const ConfigRecord& record, std::string_view key, std::string_view fallback);

}  // namespace fedumm
