#include "wire/object_frame.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>
#include <array>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace fedumm::wire {
namespace {

using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;

constexpr int kIdChars = 64;
constexpr int kMaxSessionBytes = 4096;

constexpr uint32_t Tag(uint32_t field, uint32_t wire_type) { return field << 3 | wire_type; }
constexpr uint32_t kVarint = 0;
constexpr uint32_t kFixed64 = 1;
constexpr uint32_t kBytes = 2;
constexpr uint32_t kFixed32 = 5;

// ObjectFrame and PushObjectsRequest
constexpr uint32_t kObject = Tag(1, kBytes);
constexpr uint32_t kNodeId = Tag(2, kVarint);
constexpr uint32_t kRunId = Tag(3, kVarint);
constexpr uint32_t kSessionId = Tag(4, kBytes);
// StoredObject
constexpr uint32_t kObjectId = Tag(1, kBytes);
constexpr uint32_t kContent = Tag(2, kBytes);

absl::Status Malformed() { return absl::InvalidArgumentError("the frame of objects is malformed"); }

// Fields of later versions.
bool SkipField(CodedInputStream& input, uint32_t tag) {
  uint64_t number = 0;
  uint32_t length = 0;
  switch (tag & 7) {
    case kVarint:
      return input.ReadVarint64(&number);
    case kFixed64:
      return input.Skip(8);
    case kFixed32:
      return input.Skip(4);
    case kBytes:
      return input.ReadVarint32(&length) && length <= INT32_MAX &&
             input.Skip(static_cast<int>(length));
    default:
      return false;
  }
}

// Appends instead of resizing, which would write zeros first.
bool ReadBytes(CodedInputStream& input, int64_t length, std::string& bytes) {
  bytes.clear();
  bytes.reserve(length);
  while (length > 0) {
    const void* data = nullptr;
    int size = 0;
    if (!input.GetDirectBufferPointer(&data, &size)) return false;
    const int part = static_cast<int>(std::min<int64_t>(size, length));
    bytes.append(static_cast<const char*>(data), part);
    if (!input.Skip(part)) return false;
    length -= part;
  }
  return true;
}

// Reads the length of a field, which must be at most `max` and fit into what is left of the
// message.
bool ReadLength(CodedInputStream& input, int64_t max, uint32_t& length) {
  if (!input.ReadVarint32(&length) || length > max) return false;
  const int left = input.BytesUntilLimit();
  return left < 0 || length <= left;
}

absl::StatusOr<ReceivedObject> ParseStoredObject(CodedInputStream& input, const Limits& limits) {
  ReceivedObject object;
  uint32_t length = 0;
  while (const uint32_t tag = input.ReadTag()) {
    if (tag == kObjectId) {
      if (!ReadLength(input, kIdChars, length) || !ReadBytes(input, length, object.id)) {
        return Malformed();
      }
    } else if (tag == kContent) {
      if (!ReadLength(input, limits.max_object_bytes, length)) {
        return absl::InvalidArgumentError(absl::StrCat("an object of ", length, " bytes, limit ",
                                                       limits.max_object_bytes,
                                                       ", or more than its frame has"));
      }
      if (!ReadBytes(input, length, object.bytes)) return Malformed();
    } else if (!SkipField(input, tag)) {
      return Malformed();
    }
  }
  if (!input.ConsumedEntireMessage() || !IsObjectId(object.id)) return Malformed();
  return object;
}

void AppendVarint(uint32_t number, std::string& text) {
  std::array<uint8_t, 5> buffer;
  const uint8_t* const end = CodedOutputStream::WriteVarint32ToArray(number, buffer.data());
  text.append(reinterpret_cast<const char*>(buffer.data()), end - buffer.data());
}

}  // namespace

size_t NumInFrame(std::span<const Object> objects, int64_t max_bytes) {
  int64_t num_bytes = 0;
  size_t count = 0;
  for (const Object& object : objects) {
    num_bytes += static_cast<int64_t>(object.bytes->size()) + kObjectOverhead;
    if (num_bytes > max_bytes && count > 0) break;
    ++count;
  }
  return count;
}

std::string ObjectPrefix(std::string_view id, size_t num_bytes) {
  std::string inner;
  AppendVarint(kObjectId, inner);
  AppendVarint(static_cast<uint32_t>(id.size()), inner);
  inner.append(id);
  AppendVarint(kContent, inner);
  AppendVarint(static_cast<uint32_t>(num_bytes), inner);
  std::string prefix;
  AppendVarint(kObject, prefix);
  AppendVarint(static_cast<uint32_t>(inner.size() + num_bytes), prefix);
  return prefix + inner;
}

std::string FormatFrame(std::string_view head, std::span<const Object> objects) {
  size_t num_bytes = head.size();
  for (const Object& object : objects) num_bytes += object.bytes->size() + kObjectOverhead;
  std::string frame;
  frame.reserve(num_bytes);
  frame += head;
  for (const Object& object : objects) {
    frame += ObjectPrefix(object.id, object.bytes->size());
    frame += *object.bytes;
  }
  return frame;
}

absl::StatusOr<ReceivedFrame> ParseObjectFrame(google::protobuf::io::ZeroCopyInputStream& stream,
                                               size_t num_bytes, const Limits& limits) {
  if (num_bytes > std::numeric_limits<int>::max()) return Malformed();
  ReceivedFrame frame;
  CodedInputStream input(&stream);
  const CodedInputStream::Limit end = input.PushLimit(static_cast<int>(num_bytes));
  while (const uint32_t tag = input.ReadTag()) {
    uint32_t length = 0;
    bool ok = false;
    if (tag == kObject) {
      if (!ReadLength(input, std::numeric_limits<int>::max(), length)) return Malformed();
      const CodedInputStream::Limit outer = input.PushLimit(static_cast<int>(length));
      FEDUMM_ASSIGN_OR_RETURN(ReceivedObject object, ParseStoredObject(input, limits));
      frame.objects.push_back(std::move(object));
      ok = input.BytesUntilLimit() == 0;
      input.PopLimit(outer);
    } else if (tag == kNodeId) {
      ok = input.ReadVarint64(&frame.node_id);
    } else if (tag == kRunId) {
      ok = input.ReadVarint64(&frame.run_id);
    } else if (tag == kSessionId) {
      ok =
          ReadLength(input, kMaxSessionBytes, length) && ReadBytes(input, length, frame.session_id);
    } else {
      ok = SkipField(input, tag);
    }
    if (!ok) return Malformed();
  }
  if (!input.ConsumedEntireMessage() || input.BytesUntilLimit() != 0) return Malformed();
  input.PopLimit(end);
  return frame;
}

absl::StatusOr<ReceivedFrame> ParseObjectFrame(std::string_view bytes, const Limits& limits) {
  if (bytes.size() > std::numeric_limits<int>::max()) return Malformed();
  google::protobuf::io::ArrayInputStream stream(bytes.data(), static_cast<int>(bytes.size()));
  return ParseObjectFrame(stream, bytes.size(), limits);
}

}  // namespace fedumm::wire
