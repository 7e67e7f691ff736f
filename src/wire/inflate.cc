#include <map>
#include <set>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "wire/body.h"
#include "wire/object.h"
#include "wire/proto.h"
#include "wire/value_count.h"

namespace fedumm::wire {
namespace {

constexpr size_t kNpyMagicBytes = 12;  // before the header's text

struct Fetched {
  ObjectBytes bytes;  // what view looks into
  ObjectView view;
};

template <typename Proto>
absl::StatusOr<Proto> ParseProto(std::string_view body, const Limits& limits) {
  FEDUMM_RETURN_IF_ERROR(CheckValueCount(*Proto::descriptor(), body, limits.max_record_values));
  Proto proto;
  if (!proto.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    return absl::InvalidArgumentError(
        absl::StrCat("malformed ", proto.GetTypeName(), " of ", body.size(), " bytes"));
  }
  return proto;
}

// One Inflate call. The levels below a message are fixed, one function each, so that no input makes
// it deeper.
class Inflater {
 public:
  Inflater(const std::function<ObjectBytes(std::string_view id)>& find, const Limits& limits,
           bool verified)
      : find_(find), limits_(limits), verified_(verified) {}

  absl::StatusOr<Message> InflateMessage(std::string_view id) {
    FEDUMM_ASSIGN_OR_RETURN(const Fetched object, Fetch(id));
    FEDUMM_RETURN_IF_ERROR(ExpectType(object, "Message"));
    FEDUMM_ASSIGN_OR_RETURN(const auto proto,
                            ParseProto<flwr::proto::Message>(object.view.body, limits_));
    Message message;
    FEDUMM_ASSIGN_OR_RETURN(message.metadata, MetadataFromProto(proto.metadata(), limits_));
    if (!message.metadata.message_id.empty() || proto.has_content()) {
      return absl::InvalidArgumentError("message object holds its own id or content");
    }
    message.metadata.message_id = std::string(id);
    if (proto.has_error() == !object.view.children.empty()) {
      return absl::InvalidArgumentError("message object has not exactly one of content and error");
    }
    if (proto.has_error()) {
      message.error = ErrorFromProto(proto.error());
    } else {
      FEDUMM_ASSIGN_OR_RETURN(message.content, InflateDict(object.view.children[0]));
    }
    return message;
  }

 private:
  absl::StatusOr<Fetched> Fetch(std::string_view id) {
    FEDUMM_RETURN_IF_ERROR(CountObject());
    Fetched object{.bytes = find_(id), .view = {}};
    if (object.bytes == nullptr) {
      return absl::DataLossError(absl::StrCat("object is missing: ", Text(id)));
    }
    FEDUMM_RETURN_IF_ERROR(CountBytes(object.bytes->size()));
    if (!verified_ && Sha256Hex(*object.bytes) != id) {
      return absl::DataLossError(absl::StrCat("object does not match its id: ", Text(id)));
    }
    FEDUMM_ASSIGN_OR_RETURN(object.view, ParseObject(*object.bytes, limits_));
    return object;
  }

  absl::Status CountObject() {
    if (++num_objects_ <= limits_.max_objects_per_message) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("message has more than ", limits_.max_objects_per_message, " objects"));
  }

  absl::Status CountBytes(size_t num_bytes) {
    num_bytes_ += static_cast<int64_t>(num_bytes);
    if (num_bytes_ <= limits_.max_message_bytes) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("message has more than ", limits_.max_message_bytes, " bytes"));
  }

  static absl::Status ExpectType(const Fetched& object, absl::string_view type) {
    if (Text(object.view.type) == type) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("object is of type ", Text(object.view.type), ", expected ", type));
  }

  // The name-to-id map in the body, if it names the object's children and no others.
  absl::StatusOr<IdMap> ReadIdMap(const Fetched& object) {
    FEDUMM_ASSIGN_OR_RETURN(IdMap ids, ParseIdMap(object.view.body, limits_));
    std::set<std::string_view> named;
    for (const auto& [name, id] : ids) named.insert(id);
    const std::set<std::string_view> children(object.view.children.begin(),
                                              object.view.children.end());
    if (named != children) {
      return absl::InvalidArgumentError(absl::StrCat(Text(object.view.type), " names ",
                                                     named.size(), " objects that are not its ",
                                                     children.size(), " children"));
    }
    return ids;
  }

  absl::StatusOr<RecordDict> InflateDict(std::string_view id) {
    FEDUMM_ASSIGN_OR_RETURN(const Fetched object, Fetch(id));
    FEDUMM_RETURN_IF_ERROR(ExpectType(object, "RecordDict"));
    FEDUMM_ASSIGN_OR_RETURN(const IdMap ids, ReadIdMap(object));
    RecordDict records;
    for (const auto& [name, record_id] : ids) {
      FEDUMM_ASSIGN_OR_RETURN(AnyRecord record, InflateRecord(record_id));
      records.Set(name, std::move(record));
    }
    return records;
  }

  absl::StatusOr<AnyRecord> InflateRecord(std::string_view id) {
    FEDUMM_ASSIGN_OR_RETURN(const Fetched object, Fetch(id));
    if (object.view.type == "ConfigRecord") {
      FEDUMM_ASSIGN_OR_RETURN(const auto proto,
                              ParseProto<flwr::proto::ConfigRecord>(object.view.body, limits_));
      return ConfigRecordFromProto(proto, limits_);
    }
    if (object.view.type == "MetricRecord") {
      FEDUMM_ASSIGN_OR_RETURN(const auto proto,
                              ParseProto<flwr::proto::MetricRecord>(object.view.body, limits_));
      return MetricRecordFromProto(proto, limits_);
    }
    FEDUMM_RETURN_IF_ERROR(ExpectType(object, "ArrayRecord"));
    FEDUMM_ASSIGN_OR_RETURN(const IdMap ids, ReadIdMap(object));
    ArrayRecord arrays;
    for (const auto& [name, array_id] : ids) {
      FEDUMM_ASSIGN_OR_RETURN(Array array, InflateArray(array_id));
      arrays.Set(name, std::move(array));
    }
    return arrays;
  }

  // Arrays named twice share their bytes.
  absl::StatusOr<Array> InflateArray(const std::string& id) {
    if (const auto known = arrays_.find(id); known != arrays_.end()) {
      FEDUMM_RETURN_IF_ERROR(CountObject());
      return known->second;
    }
    FEDUMM_ASSIGN_OR_RETURN(const Fetched object, Fetch(id));
    FEDUMM_RETURN_IF_ERROR(ExpectType(object, "Array"));
    FEDUMM_ASSIGN_OR_RETURN(const ArrayBody body, ParseArrayBody(object.view.body, limits_));
    std::vector<Fetched> chunks;
    for (const std::string_view child : object.view.children) {
      FEDUMM_ASSIGN_OR_RETURN(Fetched chunk, Fetch(child));
      FEDUMM_RETURN_IF_ERROR(ExpectType(chunk, "ArrayChunk"));
      chunks.push_back(std::move(chunk));
    }
    FEDUMM_RETURN_IF_ERROR(CheckPlaces(body.chunks, chunks.size()));
    FEDUMM_ASSIGN_OR_RETURN(Array array, ReadChunks(body, chunks));
    return arrays_.emplace(id, std::move(array)).first->second;
  }

  static absl::Status CheckPlaces(const std::vector<int64_t>& places, size_t num_chunks) {
    std::vector<bool> used(num_chunks);
    size_t num_used = 0;
    for (const int64_t place : places) {
      if (place >= static_cast<int64_t>(num_chunks)) {
        return absl::InvalidArgumentError(
            absl::StrCat("array uses chunk ", place, " of ", num_chunks));
      }
      if (!used[place]) ++num_used;
      used[place] = true;
    }
    if (num_used == num_chunks) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("array uses ", num_used, " of its ", num_chunks, " chunks"));
  }

  absl::StatusOr<Array> ReadChunks(const ArrayBody& body, std::vector<Fetched>& chunks) {
    if (body.chunks.size() == 1) {
      Fetched& chunk = chunks[0];
      const size_t offset = chunk.bytes->size() - chunk.view.body.size();
      return ArrayFromData(body.format, std::move(chunk.bytes), offset, limits_);
    }
    // All of it is known before anything is reserved: a chunk may be named a million times.
    FEDUMM_ASSIGN_OR_RETURN(const int64_t num_bytes, NumJoinedBytes(body, chunks));
    auto joined = std::make_shared<std::string>();
    joined->reserve(num_bytes);
    for (const int64_t place : body.chunks) joined->append(chunks[place].view.body);
    return ArrayFromData(body.format, std::move(joined), 0, limits_);
  }

  // The bytes of all chunks in order, if these are as many as the array's header and shape ask for.
  absl::StatusOr<int64_t> NumJoinedBytes(const ArrayBody& body,
                                         const std::vector<Fetched>& chunks) {
    const auto max_start = static_cast<size_t>(limits_.max_npy_header_bytes) + kNpyMagicBytes;
    std::string start;
    int64_t num_bytes = 0;
    std::vector<bool> used(chunks.size());
    for (const int64_t place : body.chunks) {
      const std::string_view chunk = chunks[place].view.body;
      FEDUMM_RETURN_IF_ERROR(CountBytes(chunk.size()));
      if (used[place]) FEDUMM_RETURN_IF_ERROR(CountRepeated(chunk.size()));
      used[place] = true;
      if (start.size() < max_start) start.append(chunk.substr(0, max_start - start.size()));
      num_bytes += static_cast<int64_t>(chunk.size());
    }
    if (num_bytes == 0) return num_bytes;
    FEDUMM_ASSIGN_OR_RETURN(const int64_t expected, NumStreamBytes(body.format, start, limits_));
    if (num_bytes == expected) return num_bytes;
    return absl::InvalidArgumentError(absl::StrCat("the chunks of an array have ", num_bytes,
                                                   " bytes, its header and shape ask for ",
                                                   expected));
  }

  absl::Status CountRepeated(size_t num_bytes) {
    num_repeated_ += static_cast<int64_t>(num_bytes);
    if (num_repeated_ <= limits_.max_repeated_bytes) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("arrays repeat their chunks for more than ",
                                                   limits_.max_repeated_bytes, " bytes"));
  }

  const std::function<ObjectBytes(std::string_view id)>& find_;
  const Limits& limits_;
  const bool verified_;
  int64_t num_objects_ = 0;
  int64_t num_bytes_ = 0;
  int64_t num_repeated_ = 0;  // bytes of chunks named before
  std::map<std::string, Array> arrays_;
};

}  // namespace

absl::StatusOr<Message> Inflate(std::string_view message_id,
                                const std::function<ObjectBytes(std::string_view id)>& find,
                                const Limits& limits, bool verified) {
  if (!IsObjectId(message_id)) return absl::InvalidArgumentError("message id is no object id");
  return Inflater(find, limits, verified).InflateMessage(message_id);
}

}  // namespace fedumm::wire
