#include "strategy/checkpoint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "record/shape.h"
#include "strategy/file_limits.h"
#include "wire/proto.h"

namespace fedumm {
namespace {

constexpr std::string_view kMagic = "fedumm checkpoint 2\n";
constexpr size_t kHashDigits = 64;
constexpr char kArrays[] = "arrays";
constexpr char kState[] = "strategy-state";

absl::Status Damaged(std::string_view what) {
  return absl::DataLossError(absl::StrCat("checkpoint is damaged: ", Text(what)));
}

// The value of that type; DATA_LOSS if it is not there.
template <typename T>
absl::StatusOr<T> ReadValue(const ConfigRecord& record, std::string_view key) {
  const ConfigValue* value = record.Find(key);
  const T* typed = value == nullptr ? nullptr : std::get_if<T>(value);
  if (typed == nullptr) return Damaged(absl::StrCat("no ", Text(key)));
  return *typed;
}

// Names, dtypes and shapes of arrays: all dimensions one after another, and how many each has.
ConfigRecord Describe(const ArrayRecord& arrays) {
  std::vector<std::string> names, dtypes;
  std::vector<int64_t> ranks, dims;
  for (const auto& [name, array] : arrays) {
    names.push_back(name);
    dtypes.emplace_back(DTypeName(array.dtype()));
    ranks.push_back(static_cast<int64_t>(array.shape().size()));
    dims.insert(dims.end(), array.shape().begin(), array.shape().end());
  }
  return {{"names", std::move(names)},
          {"dtypes", std::move(dtypes)},
          {"ranks", std::move(ranks)},
          {"dims", std::move(dims)}};
}

// What stands before the elements, its length included.
std::string Head(const Checkpoint& checkpoint) {
  const RecordDict records = {{"run", ConfigRecord{{"seed", checkpoint.seed},
                                                   {"last-round", checkpoint.last_round},
                                                   {"num-updated", checkpoint.num_updated},
                                                   {"num-accepted", checkpoint.num_accepted},
                                                   {"log-bytes", checkpoint.log.num_bytes},
                                                   {"log-hash", checkpoint.log.hash}}},
                              {kArrays, Describe(checkpoint.arrays)},
                              {kState, Describe(checkpoint.strategy_state)}};
  const std::string text = wire::RecordDictToProto(records).SerializeAsString();
  const uint64_t num_bytes = text.size();
  return absl::StrCat(
      absl::string_view(reinterpret_cast<const char*>(&num_bytes), sizeof(num_bytes)), text);
}

// The content of the file in pieces. `head` and `start` hold what is not in the arrays.
std::vector<std::string_view> Pieces(const Checkpoint& checkpoint, std::string& head,
                                     std::string& start) {
  head = Head(checkpoint);
  std::vector<std::string_view> pieces = {start, head};
  for (const ArrayRecord* arrays : {&checkpoint.arrays, &checkpoint.strategy_state}) {
    for (const auto& [name, array] : *arrays) pieces.push_back(array.bytes());
  }
  Sha256 hash;
  for (const std::string_view piece : pieces) hash.Update(piece);
  start = absl::StrCat(Text(kMagic), std::move(hash).Hex(), "\n");
  pieces[0] = start;
  return pieces;
}

// Bytes that are read once, from a file or from memory.
class Source {
 public:
  using Read = std::function<absl::StatusOr<size_t>(char* out, size_t num_bytes)>;
  Source(uint64_t num_bytes, Read read) : left_(num_bytes), read_(std::move(read)) {}

  uint64_t left() const { return left_; }
  // DATA_LOSS if fewer are left.
  absl::StatusOr<std::string> Take(uint64_t num_bytes) {
    if (num_bytes > left_) return Damaged("it ends too early");
    std::string bytes(num_bytes, '\0');
    FEDUMM_ASSIGN_OR_RETURN(const size_t done, read_(bytes.data(), bytes.size()));
    if (done != num_bytes) return Damaged("it ends too early");
    left_ -= num_bytes;
    hash_.Update(bytes);
    return bytes;
  }
  std::string Hash() && { return std::move(hash_).Hex(); }

 private:
  uint64_t left_;
  Read read_;
  Sha256 hash_;
};

Source SourceOf(std::string_view bytes) {
  return Source(bytes.size(), [bytes](char* out, size_t num_bytes) mutable {
    std::memcpy(out, bytes.data(), num_bytes);
    bytes.remove_prefix(num_bytes);
    return absl::StatusOr<size_t>(num_bytes);
  });
}

absl::StatusOr<ArrayRecord> ReadArrays(const RecordDict& head, const char* name, Source& source) {
  const ConfigRecord* forms = head.FindConfig(name);
  if (forms == nullptr) return Damaged(absl::StrCat("no ", name));
  FEDUMM_ASSIGN_OR_RETURN(const auto names, ReadValue<std::vector<std::string>>(*forms, "names"));
  FEDUMM_ASSIGN_OR_RETURN(const auto dtypes, ReadValue<std::vector<std::string>>(*forms, "dtypes"));
  FEDUMM_ASSIGN_OR_RETURN(const auto ranks, ReadValue<std::vector<int64_t>>(*forms, "ranks"));
  FEDUMM_ASSIGN_OR_RETURN(const auto all_dims, ReadValue<std::vector<int64_t>>(*forms, "dims"));
  if (dtypes.size() != names.size() || ranks.size() != names.size()) {
    return Damaged("unequal lists");
  }
  ArrayRecord arrays;
  std::span<const int64_t> dims = all_dims;
  for (size_t i = 0; i < names.size(); ++i) {
    const absl::StatusOr<DType> dtype = DTypeFromName(dtypes[i]);
    if (!dtype.ok()) return Damaged(absl::StrCat(dtype.status().message()));
    if (ranks[i] < 0 || ranks[i] > static_cast<int64_t>(dims.size())) {
      return Damaged("a shape is cut off");
    }
    const std::span<const int64_t> shape = dims.first(ranks[i]);
    dims = dims.subspan(ranks[i]);
    const absl::StatusOr<int64_t> num_elements = NumElements(shape);
    if (!num_elements.ok()) return Damaged(absl::StrCat(num_elements.status().message()));
    const auto size = static_cast<uint64_t>(ElementSize(*dtype));
    if (static_cast<uint64_t>(*num_elements) > source.left() / size) {
      return Damaged("it ends too early");
    }
    FEDUMM_ASSIGN_OR_RETURN(std::string bytes,
                            source.Take(static_cast<uint64_t>(*num_elements) * size));
    absl::StatusOr<Array> array =
        Array::Create(*dtype, {shape.begin(), shape.end()}, std::move(bytes));
    if (!array.ok()) return Damaged(absl::StrCat(array.status().message()));
    if (arrays.contains(names[i])) return Damaged("a name is given twice");
    arrays.Set(names[i], *std::move(array));
  }
  if (!dims.empty()) return Damaged("there are dimensions of no array");
  return arrays;
}

absl::StatusOr<RecordDict> ReadHead(Source& source) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string length, source.Take(sizeof(uint64_t)));
  uint64_t num_bytes;
  std::memcpy(&num_bytes, length.data(), sizeof(num_bytes));
  FEDUMM_ASSIGN_OR_RETURN(const std::string text, source.Take(num_bytes));
  flwr::proto::RecordDict proto;
  if (num_bytes > std::numeric_limits<int32_t>::max() || !proto.ParseFromString(text)) {
    return Damaged("it does not parse");
  }
  absl::StatusOr<RecordDict> head = wire::RecordDictFromProto(proto, FileLimits());
  if (!head.ok()) return Damaged(absl::StrCat(head.status().message()));
  return head;
}

absl::StatusOr<Checkpoint> ReadBody(Source& source) {
  FEDUMM_ASSIGN_OR_RETURN(const RecordDict head, ReadHead(source));
  const ConfigRecord* run = head.FindConfig("run");
  if (run == nullptr) return Damaged("a record is missing");
  Checkpoint checkpoint;
  FEDUMM_ASSIGN_OR_RETURN(checkpoint.seed, ReadValue<uint64_t>(*run, "seed"));
  FEDUMM_ASSIGN_OR_RETURN(checkpoint.last_round, ReadValue<int64_t>(*run, "last-round"));
  FEDUMM_ASSIGN_OR_RETURN(checkpoint.num_updated, ReadValue<int64_t>(*run, "num-updated"));
  FEDUMM_ASSIGN_OR_RETURN(checkpoint.num_accepted, ReadValue<int64_t>(*run, "num-accepted"));
  FEDUMM_ASSIGN_OR_RETURN(checkpoint.log.num_bytes, ReadValue<int64_t>(*run, "log-bytes"));
  FEDUMM_ASSIGN_OR_RETURN(checkpoint.log.hash, ReadValue<std::string>(*run, "log-hash"));
  FEDUMM_ASSIGN_OR_RETURN(checkpoint.arrays, ReadArrays(head, kArrays, source));
  FEDUMM_ASSIGN_OR_RETURN(checkpoint.strategy_state, ReadArrays(head, kState, source));
  if (source.left() > 0) return Damaged("it goes on behind its end");
  return checkpoint;
}

// A body that does not parse has a wrong hash as well, which is the plainer message.
absl::StatusOr<Checkpoint> ReadAll(std::string_view start, Source body) {
  if (start.substr(0, kMagic.size()) != kMagic) {
    return Damaged("it does not begin as one of version 2");
  }
  if (start.size() < kMagic.size() + kHashDigits + 1) return Damaged("it ends within its header");
  absl::StatusOr<Checkpoint> checkpoint = ReadBody(body);
  if (!checkpoint.ok()) return checkpoint;
  if (start.substr(kMagic.size()) != std::move(body).Hash() + "\n") {
    return Damaged("its hash is another");
  }
  return checkpoint;
}

constexpr size_t kStartSize = kMagic.size() + kHashDigits + 1;  // the hash ends with a newline

absl::StatusOr<Checkpoint> ReadFrom(int fd, const std::string& path) {
  struct stat info;
  if (fstat(fd, &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot stat ", path));
  }
  std::string start(kStartSize, '\0');
  FEDUMM_ASSIGN_OR_RETURN(const size_t done, ReadUpTo(fd, start.data(), start.size(), path));
  start.resize(done);
  const uint64_t left = static_cast<uint64_t>(info.st_size) - done;
  return ReadAll(start, Source(left, [fd, &path](char* out, size_t num_bytes) {
                   return ReadUpTo(fd, out, num_bytes, path);
                 }));
}

}  // namespace

std::string EncodeCheckpoint(const Checkpoint& checkpoint) {
  std::string head, start;
  std::string bytes;
  for (const std::string_view piece : Pieces(checkpoint, head, start)) bytes.append(piece);
  return bytes;
}

absl::StatusOr<Checkpoint> DecodeCheckpoint(std::string_view bytes) {
  const size_t start = std::min(bytes.size(), kStartSize);
  return ReadAll(bytes.substr(0, start), SourceOf(bytes.substr(start)));
}

absl::StatusOr<Checkpoint> DecodeCheckpointBody(std::string_view body) {
  Source source = SourceOf(body);
  return ReadBody(source);
}

absl::Status WriteCheckpoint(const std::string& path, const Checkpoint& checkpoint) {
  std::string head, start;
  return WriteFileAtomically(path, Pieces(checkpoint, head, start));
}

absl::StatusOr<Checkpoint> ReadCheckpoint(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  const absl::Cleanup close_fd = [fd] { close(fd); };
  absl::StatusOr<Checkpoint> checkpoint = ReadFrom(fd, path);
  if (checkpoint.ok()) return checkpoint;
  return absl::Status(checkpoint.status().code(),
                      absl::StrCat(path, ": ", checkpoint.status().message()));
}

std::string RoundLogPath(const std::string& checkpoint_path) {
  return absl::StrCat(checkpoint_path, ".rounds");
}

absl::Status ReadCheckpointRounds(const std::string& checkpoint_path,
                                  const std::function<void(const RoundResult&)>& on_round) {
  FEDUMM_ASSIGN_OR_RETURN(const Checkpoint checkpoint, ReadCheckpoint(checkpoint_path));
  return RoundLog::Read(RoundLogPath(checkpoint_path), checkpoint.log, on_round);
}

}  // namespace fedumm
