// The first byte picks the protobuf message that the rest is: a record, a dictionary with arrays
// inline, metadata, a run's configuration, an object tree. What is accepted is written and read
// again.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "flwr/proto/run.pb.h"
#include "wire/object.h"
#include "wire/proto.h"

namespace fedumm::wire {
namespace {

const Limits& TestLimits() {
  static const Limits limits{.max_record_items = 1000, .max_list_values = 1000};
  return limits;
}

// Serialised, for NaN equals nothing.
template <typename Proto, typename FromProto, typename ToProto>
void Check(const std::string& bytes, FromProto from_proto, ToProto to_proto) {
  Proto proto;
  if (!proto.ParseFromString(bytes)) return;
  const auto value = from_proto(proto, TestLimits());
  if (!value.ok()) return;
  const Proto written = to_proto(*value);
  const auto again = from_proto(written, TestLimits());
  if (!again.ok()) std::abort();
  if (to_proto(*again).SerializeAsString() != written.SerializeAsString()) std::abort();
}

void CheckScalars(const std::string& bytes) {
  flwr::proto::Run run;
  if (!run.ParseFromString(bytes)) return;
  const absl::StatusOr<ConfigRecord> config =
      ConfigFromScalars(run.override_config(), TestLimits());
  if (!config.ok()) return;
  ScalarMap scalars;
  if (!ConfigToScalars(*config, scalars).ok() || scalars.size() != config->size()) std::abort();
}

void CheckTree(const std::string& bytes) {
  flwr::proto::ObjectTree tree;
  if (!tree.ParseFromString(bytes)) return;
  const auto ids = TreeIds(tree, TestLimits());
  if (ids.ok() && (ids->empty() || ids->back() != tree.object_id())) std::abort();
}

}  // namespace
}  // namespace fedumm::wire

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fedumm::wire;
  if (size == 0) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0]) {
    case 0:
      Check<flwr::proto::ConfigRecord>(bytes, ConfigRecordFromProto, ConfigRecordToProto);
      break;
    case 1:
      Check<flwr::proto::MetricRecord>(bytes, MetricRecordFromProto, MetricRecordToProto);
      break;
    case 2:
      Check<flwr::proto::RecordDict>(bytes, RecordDictFromProto, RecordDictToProto);
      break;
    case 3:
      Check<flwr::proto::Metadata>(bytes, MetadataFromProto, MetadataToProto);
      break;
    case 4:
      CheckScalars(bytes);
      break;
    case 5:
      CheckTree(bytes);
      break;
    default:
      break;
  }
  return 0;
}
