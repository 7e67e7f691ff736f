// Objects one after another, each behind its length in two bytes (little-endian); the first is the
// message. An id names the object whose number is its last two digits, so that the fuzzer can link
// objects without finding hashes.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "wire/body.h"
#include "wire/object.h"
#include "wire/proto.h"

namespace fedumm::wire {
namespace {

void CheckObject(const std::string& bytes, const Limits& limits) {
  const absl::StatusOr<ObjectView> object = ParseObject(bytes, limits);
  if (!object.ok()) return;
  const std::vector<std::string> children(object->children.begin(), object->children.end());
  if (FormatObject(object->type, children, object->body) != bytes) std::abort();
  if (const auto body = ParseArrayBody(object->body, limits); body.ok()) {
    if (*ParseArrayBody(PrintArrayBody(*body), limits) != *body) std::abort();
  }
  if (const auto ids = ParseIdMap(object->body, limits); ids.ok()) {
    if (*ParseIdMap(PrintIdMap(*ids), limits) != *ids) std::abort();
  }
}

// A message that was accepted has to survive a round trip, in which it may grow.
void CheckMessage(const Message& message) {
  Deflater deflater;
  const DeflatedMessage deflated = deflater.Deflate(message);
  const auto find = [&deflated](std::string_view id) -> ObjectBytes {
    for (const Object& object : deflated.objects) {
      if (object.id == id) return object.bytes;
    }
    return nullptr;
  };
  const absl::StatusOr<Message> again = Inflate(deflated.message_id, find, Limits());
  if (!again.ok() || again->has_error() != message.has_error()) std::abort();
  if (deflater.Deflate(*again).message_id != deflated.message_id) std::abort();
}

}  // namespace
}  // namespace fedumm::wire

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fedumm::wire;
  const fedumm::Limits limits{.max_message_bytes = 1 << 20, .max_objects_per_message = 200};
  std::vector<ObjectBytes> objects;
  while (size >= 2) {
    const size_t length = std::min<size_t>(data[0] | data[1] << 8, size - 2);
    objects.push_back(
        std::make_shared<const std::string>(reinterpret_cast<const char*>(data) + 2, length));
    CheckObject(*objects.back(), limits);
    data += 2 + length;
    size -= 2 + length;
  }
  const auto find = [&objects](std::string_view id) -> ObjectBytes {
    const size_t number = std::strtoul(std::string(id.substr(62)).c_str(), nullptr, 16);
    return number < objects.size() ? objects[number] : nullptr;
  };
  const auto message = Inflate(std::string(64, '0'), find, limits, /*verified=*/true);
  if (message.ok()) CheckMessage(*message);
  return 0;
}
