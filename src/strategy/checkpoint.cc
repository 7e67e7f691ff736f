#include "strategy/checkpoint.h"

#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "wire/proto.h"

namespace fedumm {
namespace {

constexpr std::string_view kMagic = "fedumm checkpoint 1\n";
constexpr size_t kHashDigits = 64;
constexpr size_t kHeaderSize = kMagic.size() + kHashDigits + 1;  // the hash ends with a newline

// The file is our own, and so may hold more than a message from a peer.
Limits FileLimits() {
  Limits limits;
  limits.max_record_items = 100'000'000;
  limits.max_list_values = 100'000'000;
  limits.max_object_bytes = std::numeric_limits<int32_t>::max();
  return limits;
}

absl::Status Damaged(std::string_view what) {
  return absl::DataLossError(absl::StrCat("checkpoint is damaged: ", Text(what)));
}

std::string RoundName(int64_t number) { return absl::StrCat("round-", number); }

void AppendRound(const RoundResult& round, RecordDict& records) {
  const std::string name = RoundName(round.number);
  std::vector<uint64_t> node_ids, bytes_down, bytes_up;
  std::vector<bool> accepted;
  std::vector<std::string> reasons;
  for (const NodeOutcome& node : round.nodes) {
    node_ids.push_back(node.node_id);
    accepted.push_back(node.accepted);
    reasons.push_back(node.reason);
    bytes_down.push_back(node.traffic.bytes_down);
    bytes_up.push_back(node.traffic.bytes_up);
    records.Set(absl::StrCat(name, "/node-", node.node_id), node.metrics);
  }
  records.Set(absl::StrCat(name, "/train"), round.train_metrics);
  records.Set(absl::StrCat(name, "/evaluate"), round.evaluate_metrics);
  records.Set(absl::StrCat(name, "/server"), round.server_metrics);
  records.Set(name, ConfigRecord{{"updated", round.updated},
                                 {"nanoseconds", absl::ToInt64Nanoseconds(round.duration)},
                                 {"node-ids", std::move(node_ids)},
                                 {"accepted", std::move(accepted)},
                                 {"reasons", std::move(reasons)},
                                 {"bytes-down", std::move(bytes_down)},
                                 {"bytes-up", std::move(bytes_up)}});
}

// The value of that type; DATA_LOSS if it is not there.
template <typename T>
absl::StatusOr<T> Read(const ConfigRecord& record, std::string_view key) {
  const ConfigValue* value = record.Find(key);
  const T* typed = value == nullptr ? nullptr : std::get_if<T>(value);
  if (typed == nullptr) return Damaged(absl::StrCat("no ", Text(key)));
  return *typed;
}

absl::StatusOr<MetricRecord> ReadMetrics(const RecordDict& records, const std::string& name) {
  const MetricRecord* metrics = records.FindMetrics(name);
  if (metrics == nullptr) return Damaged(absl::StrCat("no ", name));
  return *metrics;
}

absl::StatusOr<std::vector<NodeOutcome>> ReadNodes(const RecordDict& records,
                                                   const std::string& name,
                                                   const ConfigRecord& summary) {
  FEDUMM_ASSIGN_OR_RETURN(const auto ids, Read<std::vector<uint64_t>>(summary, "node-ids"));
  FEDUMM_ASSIGN_OR_RETURN(const auto accepted, Read<std::vector<bool>>(summary, "accepted"));
  FEDUMM_ASSIGN_OR_RETURN(const auto reasons, Read<std::vector<std::string>>(summary, "reasons"));
  FEDUMM_ASSIGN_OR_RETURN(const auto down, Read<std::vector<uint64_t>>(summary, "bytes-down"));
  FEDUMM_ASSIGN_OR_RETURN(const auto up, Read<std::vector<uint64_t>>(summary, "bytes-up"));
  if (accepted.size() != ids.size() || reasons.size() != ids.size() || down.size() != ids.size() ||
      up.size() != ids.size()) {
    return Damaged(absl::StrCat("unequal lists in ", name));
  }
  std::vector<NodeOutcome> nodes;
  for (size_t i = 0; i < ids.size(); ++i) {
    NodeOutcome node = {.node_id = ids[i], .accepted = accepted[i], .reason = reasons[i]};
    node.traffic = {.bytes_down = down[i], .bytes_up = up[i]};
    FEDUMM_ASSIGN_OR_RETURN(node.metrics,
                            ReadMetrics(records, absl::StrCat(name, "/node-", ids[i])));
    nodes.push_back(std::move(node));
  }
  return nodes;
}

absl::StatusOr<RoundResult> ReadRound(const RecordDict& records, int64_t number) {
  const std::string name = RoundName(number);
  const ConfigRecord* summary = records.FindConfig(name);
  if (summary == nullptr) return Damaged(absl::StrCat("no ", name));
  RoundResult round = {.number = number};
  FEDUMM_ASSIGN_OR_RETURN(round.updated, Read<bool>(*summary, "updated"));
  FEDUMM_ASSIGN_OR_RETURN(const int64_t nanoseconds, Read<int64_t>(*summary, "nanoseconds"));
  round.duration = absl::Nanoseconds(nanoseconds);
  FEDUMM_ASSIGN_OR_RETURN(round.nodes, ReadNodes(records, name, *summary));
  FEDUMM_ASSIGN_OR_RETURN(round.train_metrics, ReadMetrics(records, absl::StrCat(name, "/train")));
  FEDUMM_ASSIGN_OR_RETURN(round.evaluate_metrics,
                          ReadMetrics(records, absl::StrCat(name, "/evaluate")));
  FEDUMM_ASSIGN_OR_RETURN(round.server_metrics,
                          ReadMetrics(records, absl::StrCat(name, "/server")));
  return round;
}

}  // namespace

absl::StatusOr<std::string> EncodeCheckpoint(const Checkpoint& checkpoint) {
  RecordDict records = {{"arrays", checkpoint.arrays},
                        {"strategy-state", checkpoint.strategy_state}};
  records.Set("run", ConfigRecord{{"seed", checkpoint.seed},
                                  {"num-rounds", static_cast<int64_t>(checkpoint.rounds.size())}});
  for (const RoundResult& round : checkpoint.rounds) AppendRound(round, records);
  std::string body;
  if (!wire::RecordDictToProto(records).SerializeToString(&body)) {
    return absl::ResourceExhaustedError("checkpoint is larger than 2 GiB");
  }
  return absl::StrCat(Text(kMagic), Sha256Hex(body), "\n", body);
}

absl::StatusOr<Checkpoint> DecodeCheckpoint(std::string_view bytes) {
  if (bytes.substr(0, kMagic.size()) != kMagic) {
    return Damaged("it does not begin as one of version 1");
  }
  if (bytes.size() < kHeaderSize) return Damaged("it ends within its header");
  const std::string_view body = bytes.substr(kHeaderSize);
  if (bytes.substr(kMagic.size(), kHashDigits + 1) != Sha256Hex(body) + "\n") {
    return Damaged("its hash is another");
  }
  return DecodeCheckpointBody(body);
}

absl::StatusOr<Checkpoint> DecodeCheckpointBody(std::string_view body) {
  flwr::proto::RecordDict proto;
  if (body.size() > std::numeric_limits<int32_t>::max() ||
      !proto.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    return Damaged("it does not parse");
  }
  const absl::StatusOr<RecordDict> records = wire::RecordDictFromProto(proto, FileLimits());
  if (!records.ok()) return Damaged(absl::StrCat(records.status().message()));
  const ArrayRecord* arrays = records->FindArrays("arrays");
  const ArrayRecord* state = records->FindArrays("strategy-state");
  const ConfigRecord* run = records->FindConfig("run");
  if (arrays == nullptr || state == nullptr || run == nullptr)
    return Damaged("a record is missing");
  Checkpoint checkpoint = {.arrays = *arrays, .strategy_state = *state};
  FEDUMM_ASSIGN_OR_RETURN(checkpoint.seed, Read<uint64_t>(*run, "seed"));
  FEDUMM_ASSIGN_OR_RETURN(const int64_t num_rounds, Read<int64_t>(*run, "num-rounds"));
  if (num_rounds < 1) return Damaged("it holds no round");
  for (int64_t number = 0; number < num_rounds; ++number) {
    FEDUMM_ASSIGN_OR_RETURN(RoundResult round, ReadRound(*records, number));
    checkpoint.rounds.push_back(std::move(round));
  }
  return checkpoint;
}

absl::Status WriteCheckpoint(const std::string& path, const Checkpoint& checkpoint) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string bytes, EncodeCheckpoint(checkpoint));
  return WriteFileAtomically(path, bytes);
}

absl::StatusOr<Checkpoint> ReadCheckpoint(const std::string& path) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  absl::StatusOr<Checkpoint> checkpoint = DecodeCheckpoint(bytes);
  if (checkpoint.ok()) return checkpoint;
  return absl::Status(checkpoint.status().code(),
                      absl::StrCat(path, ": ", checkpoint.status().message()));
}

}  // namespace fedumm
