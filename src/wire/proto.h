// Between our values and the protobuf messages of Flower. Received protos are hostile: every
// FromProto checks against `limits`.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "fedumm/context.h"
#include "fedumm/limits.h"
#include "fedumm/message.h"
#include "flwr/proto/message.pb.h"
#include "flwr/proto/recorddict.pb.h"
#include "flwr/proto/transport.pb.h"

namespace fedumm::wire {

flwr::proto::Metadata MetadataToProto(const Metadata& metadata);
absl::StatusOr<Metadata> MetadataFromProto(const flwr::proto::Metadata& proto,
                                           const Limits& limits);

flwr::proto::Error ErrorToProto(const Error& error);
Error ErrorFromProto(const flwr::proto::Error& proto);

// The message as it travels in PushMessages and PullMessages: content present but empty (or the
// error); the real content goes as objects.
flwr::proto::Message MessageToWire(const Message& message);

flwr::proto::MetricRecord MetricRecordToProto(const MetricRecord& record);
absl::StatusOr<MetricRecord> MetricRecordFromProto(const flwr::proto::MetricRecord& proto,
                                                   const Limits& limits);
flwr::proto::ConfigRecord ConfigRecordToProto(const ConfigRecord& record);
absl::StatusOr<ConfigRecord> ConfigRecordFromProto(const flwr::proto::ConfigRecord& proto,
                                                   const Limits& limits);

// A RecordDict with its arrays inline (not as objects): for files of our own, such as a checkpoint.
flwr::proto::RecordDict RecordDictToProto(const RecordDict& records);
absl::StatusOr<RecordDict> RecordDictFromProto(const flwr::proto::RecordDict& proto,
                                               const Limits& limits);

// Scalars of a run or node config. A list value is INVALID_ARGUMENT: Flower's Scalar has none.
using ScalarMap = google::protobuf::Map<std::string, flwr::proto::Scalar>;
absl::Status ConfigToScalars(const ConfigRecord& config, ScalarMap& scalars);
absl::StatusOr<ConfigRecord> ConfigFromScalars(const ScalarMap& scalars,
                                               const Limits& limits);  // keys in byte order

}  // namespace fedumm::wire
