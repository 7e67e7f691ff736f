#include "wire/proto.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "record/npy.h"
#include "wire/array_format.h"

namespace fedumm::wire {
namespace {

absl::Status CheckText(const char* what, const std::string& text, const Limits& limits) {
  if (static_cast<int64_t>(text.size()) <= limits.max_key_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, " has ", text.size(), " bytes, limit ", limits.max_key_bytes));
}

// Writes one value of a record. Of the proto types only ConfigRecordValue has all of them.
template <typename Proto>
struct ValueWriter {
  Proto& proto;

  void operator()(double value) { proto.set_double_(value); }
  void operator()(int64_t value) { proto.set_sint64(value); }
  void operator()(uint64_t value) { proto.set_uint64(value); }
  void operator()(bool value) { proto.set_bool_(value); }
  void operator()(const std::string& value) { proto.set_string(value); }
  void operator()(const Bytes& value) { proto.set_bytes(value.value); }
  void operator()(const std::vector<double>& values) { Copy(values, *proto.mutable_double_list()); }
  void operator()(const std::vector<int64_t>& values) { Copy(values, *proto.mutable_sint_list()); }
  void operator()(const std::vector<uint64_t>& values) { Copy(values, *proto.mutable_uint_list()); }
  void operator()(const std::vector<bool>& values) { Copy(values, *proto.mutable_bool_list()); }
  void operator()(const std::vector<std::string>& values) {
    Copy(values, *proto.mutable_string_list());
  }
  void operator()(const std::vector<Bytes>& values) {
    auto& list = *proto.mutable_bytes_list();
    for (const Bytes& value : values) list.add_vals(value.value);
  }

 private:
  template <typename Values, typename List>
  static void Copy(const Values& values, List& list) {
    for (const auto& value : values) list.add_vals(value);
  }
};

template <typename Proto, typename Value>
Proto RecordToProto(const Record<Value>& record) {
  Proto proto;
  for (const auto& [key, value] : record) {
    auto& item = *proto.add_items();
    item.set_key(key);
    std::visit(ValueWriter<std::decay_t<decltype(*item.mutable_value())>>{*item.mutable_value()},
               value);
  }
  return proto;
}

template <typename T, typename Value, typename Vals>
absl::StatusOr<Value> ListFromProto(const Vals& vals, const Limits& limits) {
  if (vals.size() > limits.max_list_values) {
    return absl::InvalidArgumentError(absl::StrCat("record value has ", vals.size(),
                                                   " elements, limit ", limits.max_list_values));
  }
  std::vector<T> values;
  values.reserve(vals.size());
  for (const auto& value : vals) values.push_back(T{value});
  return Value(std::move(values));
}

// The cases that metrics and configurations share.
template <typename Value, typename Proto>
absl::StatusOr<Value> NumbersFromProto(const Proto& proto, const Limits& limits) {
  switch (proto.value_case()) {
    case Proto::kDouble:
      return Value(proto.double_());
    case Proto::kSint64:
      return Value(int64_t{proto.sint64()});
    case Proto::kUint64:
      return Value(uint64_t{proto.uint64()});
    case Proto::kDoubleList:
      return ListFromProto<double, Value>(proto.double_list().vals(), limits);
    case Proto::kSintList:
      return ListFromProto<int64_t, Value>(proto.sint_list().vals(), limits);
    case Proto::kUintList:
      return ListFromProto<uint64_t, Value>(proto.uint_list().vals(), limits);
    default:
      return absl::InvalidArgumentError("record value is not set");
  }
}

absl::StatusOr<MetricValue> ValueFromProto(const flwr::proto::MetricRecordValue& proto,
                                           const Limits& limits) {
  return NumbersFromProto<MetricValue>(proto, limits);
}

absl::StatusOr<ConfigValue> ValueFromProto(const flwr::proto::ConfigRecordValue& proto,
                                           const Limits& limits) {
  using Proto = flwr::proto::ConfigRecordValue;
  switch (proto.value_case()) {
    case Proto::kBool:
      return ConfigValue(proto.bool_());
    case Proto::kString:
      return ConfigValue(proto.string());
    case Proto::kBytes:
      return ConfigValue(Bytes{proto.bytes()});
    case Proto::kBoolList:
      return ListFromProto<bool, ConfigValue>(proto.bool_list().vals(), limits);
    case Proto::kStringList:
      return ListFromProto<std::string, ConfigValue>(proto.string_list().vals(), limits);
    case Proto::kBytesList:
      return ListFromProto<Bytes, ConfigValue>(proto.bytes_list().vals(), limits);
    default:
      return NumbersFromProto<ConfigValue>(proto, limits);
  }
}

absl::StatusOr<Array> ValueFromProto(const flwr::proto::Array& proto, const Limits& limits) {
  const ArrayFormat format{.dtype = proto.dtype(),
                           .shape = {proto.shape().begin(), proto.shape().end()},
                           .stype = proto.stype()};
  return ArrayFromData(format, std::make_shared<const std::string>(proto.data()), 0, limits);
}

// Sets the items of a received record, or of a dictionary of them, one by one.
template <typename Target, typename Items, typename Convert>
absl::StatusOr<Target> ItemsFromProto(const Items& items, const Limits& limits, Convert convert) {
  if (items.size() > limits.max_record_items) {
    return absl::InvalidArgumentError(
        absl::StrCat("record has ", items.size(), " items, limit ", limits.max_record_items));
  }
  Target record;
  for (const auto& item : items) {
    FEDUMM_RETURN_IF_ERROR(CheckText("record key", item.key(), limits));
    if (record.contains(item.key())) {
      return absl::InvalidArgumentError(absl::StrCat("repeated key in a record: ", item.key()));
    }
    FEDUMM_ASSIGN_OR_RETURN(auto value, convert(item));
    record.Set(item.key(), std::move(value));
  }
  return record;
}

template <typename Target, typename Proto>
absl::StatusOr<Target> RecordFromProto(const Proto& proto, const Limits& limits) {
  return ItemsFromProto<Target>(proto.items(), limits, [&limits](const auto& item) {
    return ValueFromProto(item.value(), limits);
  });
}

flwr::proto::ArrayRecord ArrayRecordToProto(const ArrayRecord& record) {
  flwr::proto::ArrayRecord proto;
  for (const auto& [key, array] : record) {
    flwr::proto::ArrayRecord::Item& item = *proto.add_items();
    item.set_key(key);
    flwr::proto::Array& value = *item.mutable_value();
    const ArrayFormat format = FormatOf(array);
    value.set_stype(format.stype);
    // The field is 32 bits wide. What it cannot carry is left to the .npy header, as legacy apps
    // do.
    if (std::ranges::all_of(format.shape, [](int64_t dim) { return dim <= INT32_MAX; })) {
      value.set_dtype(format.dtype);
      for (const int64_t dim : format.shape) value.add_shape(static_cast<int32_t>(dim));
    }
    value.set_data(WriteNpy(array));
  }
  return proto;
}

absl::StatusOr<AnyRecord> AnyRecordFromProto(const flwr::proto::RecordDict::Item& item,
                                             const Limits& limits) {
  switch (item.value_case()) {
    case flwr::proto::RecordDict::Item::kArrayRecord:
      return RecordFromProto<ArrayRecord>(item.array_record(), limits);
    case flwr::proto::RecordDict::Item::kMetricRecord:
      return MetricRecordFromProto(item.metric_record(), limits);
    case flwr::proto::RecordDict::Item::kConfigRecord:
      return ConfigRecordFromProto(item.config_record(), limits);
    default:
      return absl::InvalidArgumentError(absl::StrCat("record is not set: ", item.key()));
  }
}

// Writes a configuration value into a Scalar; false if Scalar has no such kind.
struct ScalarWriter {
  flwr::proto::Scalar& scalar;

  bool operator()(double value) { return scalar.set_double_(value), true; }
  bool operator()(int64_t value) { return scalar.set_sint64(value), true; }
  bool operator()(uint64_t value) { return scalar.set_uint64(value), true; }
  bool operator()(bool value) { return scalar.set_bool_(value), true; }
  bool operator()(const std::string& value) { return scalar.set_string(value), true; }
  bool operator()(const Bytes& value) { return scalar.set_bytes(value.value), true; }
  template <typename T>
  bool operator()(const std::vector<T>&) {
    return false;
  }
};

absl::StatusOr<ConfigValue> ConfigValueFromScalar(const flwr::proto::Scalar& scalar) {
  using Scalar = flwr::proto::Scalar;
  switch (scalar.scalar_case()) {
    case Scalar::kDouble:
      return ConfigValue(scalar.double_());
    case Scalar::kSint64:
      return ConfigValue(int64_t{scalar.sint64()});
    case Scalar::kUint64:
      return ConfigValue(uint64_t{scalar.uint64()});
    case Scalar::kBool:
      return ConfigValue(scalar.bool_());
    case Scalar::kString:
      return ConfigValue(scalar.string());
    case Scalar::kBytes:
      return ConfigValue(Bytes{scalar.bytes()});
    default:
      return absl::InvalidArgumentError("scalar is not set");
  }
}

}  // namespace

flwr::proto::Metadata MetadataToProto(const Metadata& metadata) {
  flwr::proto::Metadata proto;
  proto.set_run_id(metadata.run_id);
  proto.set_message_id(metadata.message_id);
  proto.set_src_node_id(metadata.src_node_id);
  proto.set_dst_node_id(metadata.dst_node_id);
  proto.set_reply_to_message_id(metadata.reply_to_message_id);
  proto.set_group_id(metadata.group_id);
  proto.set_ttl(metadata.ttl);
  proto.set_message_type(metadata.message_type);
  proto.set_created_at(metadata.created_at);
  if (metadata.src_task_id.has_value()) proto.set_src_task_id(*metadata.src_task_id);
  if (metadata.dst_task_id.has_value()) proto.set_dst_task_id(*metadata.dst_task_id);
  return proto;
}

absl::StatusOr<Metadata> MetadataFromProto(const flwr::proto::Metadata& proto,
                                           const Limits& limits) {
  FEDUMM_RETURN_IF_ERROR(CheckText("message_id", proto.message_id(), limits));
  FEDUMM_RETURN_IF_ERROR(CheckText("reply_to_message_id", proto.reply_to_message_id(), limits));
  FEDUMM_RETURN_IF_ERROR(CheckText("group_id", proto.group_id(), limits));
  FEDUMM_RETURN_IF_ERROR(CheckText("message_type", proto.message_type(), limits));
  Metadata metadata{.run_id = proto.run_id(),
                    .message_id = proto.message_id(),
                    .src_node_id = proto.src_node_id(),
                    .dst_node_id = proto.dst_node_id(),
                    .reply_to_message_id = proto.reply_to_message_id(),
                    .group_id = proto.group_id(),
                    .ttl = proto.ttl(),
                    .message_type = proto.message_type(),
                    .created_at = proto.created_at()};
  if (proto.has_src_task_id()) metadata.src_task_id = proto.src_task_id();
  if (proto.has_dst_task_id()) metadata.dst_task_id = proto.dst_task_id();
  return metadata;
}

flwr::proto::Error ErrorToProto(const Error& error) {
  flwr::proto::Error proto;
  proto.set_code(static_cast<int64_t>(error.code));
  proto.set_reason(error.reason);
  return proto;
}

Error ErrorFromProto(const flwr::proto::Error& proto) {
  return {.code = static_cast<ErrorCode>(proto.code()), .reason = proto.reason()};
}

flwr::proto::Message MessageToWire(const Message& message) {
  flwr::proto::Message proto;
  *proto.mutable_metadata() = MetadataToProto(message.metadata);
  if (message.has_error()) {
    *proto.mutable_error() = ErrorToProto(*message.error);
  } else {
    proto.mutable_content();
  }
  return proto;
}

flwr::proto::MetricRecord MetricRecordToProto(const MetricRecord& record) {
  return RecordToProto<flwr::proto::MetricRecord>(record);
}

absl::StatusOr<MetricRecord> MetricRecordFromProto(const flwr::proto::MetricRecord& proto,
                                                   const Limits& limits) {
  return RecordFromProto<MetricRecord>(proto, limits);
}

flwr::proto::ConfigRecord ConfigRecordToProto(const ConfigRecord& record) {
  return RecordToProto<flwr::proto::ConfigRecord>(record);
}

absl::StatusOr<ConfigRecord> ConfigRecordFromProto(const flwr::proto::ConfigRecord& proto,
                                                   const Limits& limits) {
  return RecordFromProto<ConfigRecord>(proto, limits);
}

flwr::proto::RecordDict RecordDictToProto(const RecordDict& records) {
  flwr::proto::RecordDict proto;
  for (const auto& [key, record] : records) {
    flwr::proto::RecordDict::Item& item = *proto.add_items();
    item.set_key(key);
    if (const auto* arrays = std::get_if<ArrayRecord>(&record)) {
      *item.mutable_array_record() = ArrayRecordToProto(*arrays);
    } else if (const auto* metrics = std::get_if<MetricRecord>(&record)) {
      *item.mutable_metric_record() = MetricRecordToProto(*metrics);
    } else {
      *item.mutable_config_record() = ConfigRecordToProto(std::get<ConfigRecord>(record));
    }
  }
  return proto;
}

absl::StatusOr<RecordDict> RecordDictFromProto(const flwr::proto::RecordDict& proto,
                                               const Limits& limits) {
  return ItemsFromProto<RecordDict>(proto.items(), limits, [&limits](const auto& item) {
    return AnyRecordFromProto(item, limits);
  });
}

absl::Status ConfigToScalars(const ConfigRecord& config, ScalarMap& scalars) {
  for (const auto& [key, value] : config) {
    if (!std::visit(ScalarWriter{scalars[key]}, value)) {
      return absl::InvalidArgumentError(absl::StrCat("a scalar cannot hold a list: ", key));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ConfigRecord> ConfigFromScalars(const ScalarMap& scalars, const Limits& limits) {
  if (static_cast<int64_t>(scalars.size()) > limits.max_record_items) {
    return absl::InvalidArgumentError(absl::StrCat("configuration has ", scalars.size(),
                                                   " items, limit ", limits.max_record_items));
  }
  std::map<std::string_view, const flwr::proto::Scalar*> sorted;
  for (const auto& [key, scalar] : scalars) {
    FEDUMM_RETURN_IF_ERROR(CheckText("configuration key", key, limits));
    sorted.emplace(key, &scalar);
  }
  ConfigRecord config;
  for (const auto& [key, scalar] : sorted) {
    FEDUMM_ASSIGN_OR_RETURN(ConfigValue value, ConfigValueFromScalar(*scalar));
    config.Set(key, std::move(value));
  }
  return config;
}

}  // namespace fedumm::wire
