// Flower's content-addressed objects (protocol reference, section 2.1): `Type child-ids length` NUL
// body, named by the SHA-256 of all of it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/limits.h"
#include "fedumm/message.h"
#include "flwr/proto/message.pb.h"

namespace fedumm::wire {

inline constexpr size_t kChunkBytes =
    5'242'880;  // an array's .npy stream is cut into pieces of this

// Bytes of an object: shared, never changed.
using ObjectBytes = std::shared_ptr<const std::string>;

struct Object {
  std::string id;
  ObjectBytes bytes;
};

// A parsed header. Views into the object's bytes.
struct ObjectView {
  std::string_view type;
  std::vector<std::string_view> children;  // 64 lower-case hex digits each
  std::string_view body;
};

// 64 lower-case hex digits.
bool IsObjectId(std::string_view id);
std::string FormatObject(std::string_view type, const std::vector<std::string>& children,
                         std::string_view body);
// INVALID_ARGUMENT for anything but a strictly well-formed object of a known type within `limits`.
// The body is not looked into.
absl::StatusOr<ObjectView> ParseObject(std::string_view bytes, const Limits& limits);

// A message taken apart.
struct DeflatedMessage {
  std::string message_id;  // id of the root object
  flwr::proto::ObjectTree tree;
  std::vector<Object> objects;  // children first, each once
};

// One record of a content with all that is below it. Contents that share the record share this.
struct DeflatedRecord {
  flwr::proto::ObjectTree tree;
  std::vector<Object> objects;  // children first, each once
  int64_t num_bytes = 0;        // of the objects
};

// What messages with equal content share: all objects but the message's own.
struct DeflatedContent {
  Object root;
  std::vector<std::shared_ptr<const DeflatedRecord>> records;  // each once
  int64_t num_bytes = 0;                                       // of the root and the records
};

// A message taken apart, with a content that may be shared.
struct SharedMessage {
  Object root;
  std::shared_ptr<const DeflatedContent> content;  // null if the message carries an error
};

// Takes messages apart. Records that share their storage with one seen before, and arrays that
// share a buffer, are not hashed or copied again: keep one Deflater for messages that share a
// model, and no longer, because it keeps what it has seen. Names and texts should be UTF-8. Not
// thread-safe.
class Deflater {
 public:
  Deflater();
  ~Deflater();
  DeflatedMessage Deflate(const Message& message);
  // The same without a copy: messages that have one content after another, or take turns with a
  // few, get one DeflatedContent.
  SharedMessage DeflateShared(const Message& message);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// INVALID_ARGUMENT, naming the record, if a record of the message that is not cut into chunks is
// larger than an object may be. To be asked before it is taken apart: Protobuf carries no more.
absl::Status CheckRecordSizes(const Message& message, const Limits& limits);

// Puts a message together again, following the children that each object names. `find` returns the
// bytes of an object, or null; arrays of one chunk use them in place if aligned.
// metadata.message_id of the result is `message_id`. DATA_LOSS if an object is missing or its bytes
// do not match its id (each is hashed unless `verified`), INVALID_ARGUMENT if it is malformed or
// beyond `limits`, where an object that is named twice counts twice; UNIMPLEMENTED for arrays that
// are serialised in an unknown way.
absl::StatusOr<Message> Inflate(std::string_view message_id,
                                const std::function<ObjectBytes(std::string_view id)>& find,
                                const Limits& limits, bool verified = false);

// Ids of a tree, each once, children before parents. INVALID_ARGUMENT beyond `limits` (count,
// depth) or for an id that is none. Iterative.
absl::StatusOr<std::vector<std::string>> TreeIds(const flwr::proto::ObjectTree& tree,
                                                 const Limits& limits);

}  // namespace fedumm::wire
