// Flower's records: ordered maps from names to arrays, metrics and configuration values. Values;
// not synchronised.
#pragma once

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
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

// A map that keeps the order of insertion, which Flower's hashes and state dicts depend on. Copies
// share their storage until one of them changes, so that a copy costs the same whatever the size.
// Look-up is O(log n). Several threads may read one record, or copies of it.
template <typename Value>
class Record {
 public:
  using Item = std::pair<std::string, Value>;
  using const_iterator = typename std::vector<Item>::const_iterator;

  Record() = default;
  Record(std::initializer_list<Item> items) {
    for (const Item& item : items) Set(item.first, item.second);
  }
  Record(const Record& other) : storage_(other.storage_) { MarkShared(); }
  Record(Record&&) noexcept = default;
  Record& operator=(const Record& other) {
    if (this == &other) return *this;
    storage_ = other.storage_;
    MarkShared();
    return *this;
  }
  Record& operator=(Record&&) noexcept = default;
  ~Record() = default;

  // Replaces the value in place if the key is there, appends otherwise.
  void Set(std::string_view key, Value value) {
    Storage& storage = Own();
    if (const auto it = storage.index.find(key); it != storage.index.end()) {
      storage.items[it->second].second = std::move(value);
      return;
    }
    storage.index.emplace(std::string(key), storage.items.size());
    storage.items.emplace_back(std::string(key), std::move(value));
  }
  // nullptr if the key is absent. Valid until the next Set or assignment of this record.
  const Value* Find(std::string_view key) const {
    if (storage_ == nullptr) return nullptr;
    const auto it = storage_->index.find(key);
    return it == storage_->index.end() ? nullptr : &storage_->items[it->second].second;
  }
  bool contains(std::string_view key) const { return Find(key) != nullptr; }
  size_t size() const { return items().size(); }
  bool empty() const { return items().empty(); }
  const_iterator begin() const { return items().begin(); }
  const_iterator end() const { return items().end(); }

  // Whether both share one storage: then they are equal, without a look at the values.
  bool SharesStorage(const Record& other) const { return storage_ == other.storage_; }
  // An address that records with shared storage have in common, for caches that keep a copy of the
  // record as long as the address. nullptr for a record that was never filled.
  const void* storage_id() const { return storage_.get(); }

  // Order counts.
  friend bool operator==(const Record& a, const Record& b) {
    return a.SharesStorage(b) || a.items() == b.items();
  }

 private:
  struct Storage {
    std::vector<Item> items;
    std::map<std::string, size_t, std::less<>> index;
    // Set by the first copy and never reset: whoever changes the record then makes its own storage.
    // A count of the copies would need a lock to be trusted, because another thread may drop one.
    std::atomic<bool> shared = false;
  };

  void MarkShared() {
    if (storage_ != nullptr) storage_->shared.store(true, std::memory_order_relaxed);
  }

  const std::vector<Item>& items() const {
    static const std::vector<Item> none;
    return storage_ == nullptr ? none : storage_->items;
  }
  // The storage, made unshared first.
  Storage& Own() {
    if (storage_ == nullptr || storage_->shared.load(std::memory_order_relaxed)) {
      auto own = std::make_shared<Storage>();
      if (storage_ != nullptr) {
        own->items = storage_->items;
        own->index = storage_->index;
      }
      storage_ = std::move(own);
    }
    return *storage_;
  }

  std::shared_ptr<Storage> storage_;
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
