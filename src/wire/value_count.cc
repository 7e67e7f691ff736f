#include "wire/value_count.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <limits>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace fedumm::wire {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::io::CodedInputStream;

constexpr int kMaxDepth = 100;  // as of Protobuf's parser
constexpr uint32_t kVarint = 0;
constexpr uint32_t kFixed64 = 1;
constexpr uint32_t kBytes = 2;
constexpr uint32_t kFixed32 = 5;

// Elements of fixed width; 0 for varints.
int FixedSize(const FieldDescriptor& field) {
  switch (field.type()) {
    case FieldDescriptor::TYPE_DOUBLE:
    case FieldDescriptor::TYPE_FIXED64:
    case FieldDescriptor::TYPE_SFIXED64:
      return 8;
    case FieldDescriptor::TYPE_FLOAT:
    case FieldDescriptor::TYPE_FIXED32:
    case FieldDescriptor::TYPE_SFIXED32:
      return 4;
    default:
      return 0;
  }
}

class Counter {
 public:
  Counter(CodedInputStream& input, const Descriptor& type, int64_t max_values)
      : input_(input), type_(type), max_values_(max_values) {}

  absl::Status Message(const Descriptor& type, int depth) {
    if (depth > kMaxDepth) return Malformed();
    while (const uint32_t tag = input_.ReadTag()) {
      FEDUMM_RETURN_IF_ERROR(Add(1));
      FEDUMM_RETURN_IF_ERROR(Value(type.FindFieldByNumber(static_cast<int>(tag >> 3)), tag, depth));
    }
    return input_.ConsumedEntireMessage() ? absl::OkStatus() : Malformed();
  }

 private:
  absl::Status Malformed() const {
    return absl::InvalidArgumentError(absl::StrCat("malformed ", type_.full_name()));
  }

  absl::Status Add(int64_t count) {
    num_values_ += count;
    if (num_values_ <= max_values_) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("a ", type_.full_name(), " of more than ", max_values_, " values"));
  }

  absl::Status Value(const FieldDescriptor* field, uint32_t tag, int depth) {
    uint64_t number = 0;
    switch (tag & 7) {
      case kVarint:
        return input_.ReadVarint64(&number) ? absl::OkStatus() : Malformed();
      case kFixed64:
        return input_.Skip(8) ? absl::OkStatus() : Malformed();
      case kFixed32:
        return input_.Skip(4) ? absl::OkStatus() : Malformed();
      case kBytes:
        return Delimited(field, depth);
      default:
        return Malformed();  // groups
    }
  }

  absl::Status Delimited(const FieldDescriptor* field, int depth) {
    uint32_t length = 0;
    if (!input_.ReadVarint32(&length) || length > std::numeric_limits<int>::max()) {
      return Malformed();
    }
    const int size = static_cast<int>(length);
    const bool is_message =
        field != nullptr && field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    const bool is_packed = field != nullptr && field->is_packable();
    if (is_packed && FixedSize(*field) > 0) FEDUMM_RETURN_IF_ERROR(Add(size / FixedSize(*field)));
    if (!is_message && (!is_packed || FixedSize(*field) > 0)) {
      return input_.Skip(size) ? absl::OkStatus() : Malformed();
    }
    const CodedInputStream::Limit outer = input_.PushLimit(size);
    absl::Status status = is_message ? Message(*field->message_type(), depth + 1) : Varints();
    if (status.ok() && input_.BytesUntilLimit() != 0) status = Malformed();
    input_.PopLimit(outer);
    return status;
  }

  absl::Status Varints() {
    uint64_t number = 0;
    while (input_.BytesUntilLimit() > 0) {
      if (!input_.ReadVarint64(&number)) return Malformed();
      FEDUMM_RETURN_IF_ERROR(Add(1));
    }
    return absl::OkStatus();
  }

  CodedInputStream& input_;
  const Descriptor& type_;  // of the whole
  const int64_t max_values_;
  int64_t num_values_ = 0;
};

}  // namespace

absl::Status CheckValueCount(const Descriptor& type,
                             google::protobuf::io::ZeroCopyInputStream& stream,
                             int64_t max_values) {
  CodedInputStream input(&stream);
  return Counter(input, type, max_values).Message(type, /*depth=*/1);
}

absl::Status CheckValueCount(const Descriptor& type, std::string_view bytes, int64_t max_values) {
  google::protobuf::io::ArrayInputStream stream(bytes.data(), static_cast<int>(bytes.size()));
  return CheckValueCount(type, stream, max_values);
}

}  // namespace fedumm::wire
