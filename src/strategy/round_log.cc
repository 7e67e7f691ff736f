#include "strategy/round_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "strategy/file_limits.h"
#include "wire/proto.h"

namespace fedumm {
namespace {

constexpr std::string_view kMagic = "fedumm rounds 1\n";
constexpr size_t kHashDigits = 64;
constexpr size_t kFrameHead = sizeof(uint64_t) + kHashDigits;

absl::Status FileError(const char* what, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", what, " ", path));
}

absl::Status Damaged(std::string_view what) {
  return absl::DataLossError(absl::StrCat("the log of rounds is damaged: ", Text(what)));
}

std::string NextHash(std::string_view hash, std::string_view payload) {
  Sha256 next;
  next.Update(hash).Update(payload);
  return std::move(next).Hex();
}

// The value of that type; DATA_LOSS if it is not there.
template <typename T>
absl::StatusOr<T> ReadValue(const ConfigRecord& record, std::string_view key) {
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

std::string NodeName(uint64_t node_id) { return absl::StrCat("node-", node_id); }

absl::StatusOr<std::vector<NodeOutcome>> ReadNodes(const RecordDict& records,
                                                   const ConfigRecord& summary) {
  FEDUMM_ASSIGN_OR_RETURN(const auto ids, ReadValue<std::vector<uint64_t>>(summary, "node-ids"));
  FEDUMM_ASSIGN_OR_RETURN(const auto accepted, ReadValue<std::vector<bool>>(summary, "accepted"));
  FEDUMM_ASSIGN_OR_RETURN(const auto reasons,
                          ReadValue<std::vector<std::string>>(summary, "reasons"));
  FEDUMM_ASSIGN_OR_RETURN(const auto down, ReadValue<std::vector<uint64_t>>(summary, "bytes-down"));
  FEDUMM_ASSIGN_OR_RETURN(const auto up, ReadValue<std::vector<uint64_t>>(summary, "bytes-up"));
  if (accepted.size() != ids.size() || reasons.size() != ids.size() || down.size() != ids.size() ||
      up.size() != ids.size()) {
    return Damaged("unequal lists");
  }
  std::vector<NodeOutcome> nodes;
  for (size_t i = 0; i < ids.size(); ++i) {
    NodeOutcome node = {.node_id = ids[i], .accepted = accepted[i], .reason = reasons[i]};
    node.traffic = {.bytes_down = down[i], .bytes_up = up[i]};
    FEDUMM_ASSIGN_OR_RETURN(node.metrics, ReadMetrics(records, NodeName(ids[i])));
    nodes.push_back(std::move(node));
  }
  return nodes;
}

// Reads the frames up to `mark` from the start of the file. DATA_LOSS as for RoundLog::Open.
absl::Status ReadFrames(int fd, const std::string& path, const RoundLog::Mark& mark,
                        const RoundLog::OnRound& on_round) {
  struct stat info;
  if (fstat(fd, &info) != 0) return FileError("stat", path);
  if (mark.num_bytes < static_cast<int64_t>(kMagic.size())) return Damaged("it has no beginning");
  if (info.st_size < mark.num_bytes) {
    return Damaged(absl::StrCat(info.st_size, " bytes, not ", mark.num_bytes));
  }
  const auto read = [&](char* out, size_t num_bytes) -> absl::Status {
    FEDUMM_ASSIGN_OR_RETURN(const size_t done, ReadUpTo(fd, out, num_bytes, path));
    return done == num_bytes ? absl::OkStatus() : Damaged("it ends too early");
  };
  std::string magic(kMagic.size(), '\0');
  FEDUMM_RETURN_IF_ERROR(read(magic.data(), magic.size()));
  if (magic != kMagic) return Damaged("it does not begin as one");
  auto left = static_cast<uint64_t>(mark.num_bytes) - kMagic.size();
  std::string hash;
  std::string payload;
  for (int64_t number = 0; left > 0; ++number) {
    std::array<char, kFrameHead> head;
    if (left < head.size()) return Damaged("a round is cut off");
    FEDUMM_RETURN_IF_ERROR(read(head.data(), head.size()));
    left -= head.size();
    uint64_t num_bytes;
    std::memcpy(&num_bytes, head.data(), sizeof(num_bytes));
    if (num_bytes > left) return Damaged("a round is cut off");
    payload.resize(num_bytes);
    FEDUMM_RETURN_IF_ERROR(read(payload.data(), num_bytes));
    left -= num_bytes;
    hash = NextHash(hash, payload);
    if (hash != std::string_view(head.data() + sizeof(num_bytes), kHashDigits)) {
      return Damaged("the hash of a round is another");
    }
    FEDUMM_ASSIGN_OR_RETURN(RoundResult round, DecodeRound(payload));
    if (round.number != number) return Damaged("a round has another number");
    on_round(std::move(round));
  }
  if (hash != mark.hash) return Damaged("it is that of another run");
  return absl::OkStatus();
}

// A missing log is a lost one: the checkpoint says that there was one.
absl::StatusOr<int> OpenFile(const std::string& path, int flags) {
  const int fd = open(path.c_str(), flags | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return Damaged("it is missing");
  if (fd < 0) return FileError("open", path);
  return fd;
}

absl::Status WithPath(const std::string& path, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

}  // namespace

absl::StatusOr<std::string> EncodeRound(const RoundResult& round) {
  RecordDict records = {{"train", round.train_metrics},
                        {"evaluate", round.evaluate_metrics},
                        {"server", round.server_metrics}};
  std::vector<uint64_t> node_ids, bytes_down, bytes_up;
  std::vector<bool> accepted;
  std::vector<std::string> reasons;
  for (const NodeOutcome& node : round.nodes) {
    node_ids.push_back(node.node_id);
    accepted.push_back(node.accepted);
    reasons.push_back(node.reason);
    bytes_down.push_back(node.traffic.bytes_down);
    bytes_up.push_back(node.traffic.bytes_up);
    records.Set(NodeName(node.node_id), node.metrics);
  }
  records.Set("round", ConfigRecord{{"number", round.number},
                                    {"updated", round.updated},
                                    {"nanoseconds", absl::ToInt64Nanoseconds(round.duration)},
                                    {"node-ids", std::move(node_ids)},
                                    {"accepted", std::move(accepted)},
                                    {"reasons", std::move(reasons)},
                                    {"bytes-down", std::move(bytes_down)},
                                    {"bytes-up", std::move(bytes_up)}});
  const flwr::proto::RecordDict proto = wire::RecordDictToProto(records);
  if (proto.ByteSizeLong() > std::numeric_limits<int32_t>::max()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the result of round ", round.number, " is larger than 2 GiB"));
  }
  return proto.SerializeAsString();
}

absl::StatusOr<RoundResult> DecodeRound(std::string_view bytes) {
  flwr::proto::RecordDict proto;
  if (bytes.size() > std::numeric_limits<int32_t>::max() ||
      !proto.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Damaged("a round does not parse");
  }
  const absl::StatusOr<RecordDict> records = wire::RecordDictFromProto(proto, FileLimits());
  if (!records.ok()) return Damaged(absl::StrCat(records.status().message()));
  const ConfigRecord* summary = records->FindConfig("round");
  if (summary == nullptr) return Damaged("a round has no summary");
  RoundResult round;
  FEDUMM_ASSIGN_OR_RETURN(round.number, ReadValue<int64_t>(*summary, "number"));
  FEDUMM_ASSIGN_OR_RETURN(round.updated, ReadValue<bool>(*summary, "updated"));
  FEDUMM_ASSIGN_OR_RETURN(const int64_t nanoseconds, ReadValue<int64_t>(*summary, "nanoseconds"));
  round.duration = absl::Nanoseconds(nanoseconds);
  FEDUMM_ASSIGN_OR_RETURN(round.nodes, ReadNodes(*records, *summary));
  FEDUMM_ASSIGN_OR_RETURN(round.train_metrics, ReadMetrics(*records, "train"));
  FEDUMM_ASSIGN_OR_RETURN(round.evaluate_metrics, ReadMetrics(*records, "evaluate"));
  FEDUMM_ASSIGN_OR_RETURN(round.server_metrics, ReadMetrics(*records, "server"));
  return round;
}

RoundLog::RoundLog(RoundLog&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      mark_(std::move(other.mark_)) {}

RoundLog::~RoundLog() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<RoundLog> RoundLog::Create(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return FileError("create", path);
  RoundLog log(path, fd);
  FEDUMM_RETURN_IF_ERROR(WriteAll(fd, kMagic, path));
  log.mark_.num_bytes = static_cast<int64_t>(kMagic.size());
  return log;
}

absl::StatusOr<RoundLog> RoundLog::Open(const std::string& path, const Mark& mark,
                                        const OnRound& on_round) {
  const absl::StatusOr<int> fd = OpenFile(path, O_RDWR);
  if (!fd.ok()) return WithPath(path, fd.status());
  RoundLog log(path, *fd);
  FEDUMM_RETURN_IF_ERROR(WithPath(path, ReadFrames(*fd, path, mark, on_round)));
  if (ftruncate(*fd, mark.num_bytes) != 0) return FileError("shorten", path);
  if (lseek(*fd, 0, SEEK_END) < 0) return FileError("seek in", path);
  log.mark_ = mark;
  return log;
}

absl::Status RoundLog::Read(const std::string& path, const Mark& mark, const OnRound& on_round) {
  const absl::StatusOr<int> fd = OpenFile(path, O_RDONLY);
  if (!fd.ok()) return WithPath(path, fd.status());
  const absl::Cleanup close_fd = [fd = *fd] { close(fd); };
  return WithPath(path, ReadFrames(*fd, path, mark, on_round));
}

absl::Status RoundLog::Append(const RoundResult& round) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string payload, EncodeRound(round));
  const uint64_t num_bytes = payload.size();
  std::string hash = NextHash(mark_.hash, payload);
  const std::string frame =
      absl::StrCat(absl::string_view(reinterpret_cast<const char*>(&num_bytes), sizeof(num_bytes)),
                   hash, payload);
  FEDUMM_RETURN_IF_ERROR(WriteAll(fd_, frame, path_));
  if (fdatasync(fd_) != 0) return FileError("sync", path_);
  mark_.num_bytes += static_cast<int64_t>(frame.size());
  mark_.hash = std::move(hash);
  return absl::OkStatus();
}

}  // namespace fedumm
