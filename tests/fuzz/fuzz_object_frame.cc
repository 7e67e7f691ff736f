// A frame of objects, read from one piece and from many; what is read is written and read again.
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <vector>

#include "wire/object_frame.h"

namespace fedumm::wire {
namespace {

bool Equal(const ReceivedFrame& a, const ReceivedFrame& b) {
  if (a.node_id != b.node_id || a.run_id != b.run_id || a.session_id != b.session_id) return false;
  if (a.objects.size() != b.objects.size()) return false;
  for (size_t i = 0; i < a.objects.size(); ++i) {
    if (a.objects[i].id != b.objects[i].id || a.objects[i].bytes != b.objects[i].bytes)
      return false;
  }
  return true;
}

void CheckFrame(std::string_view bytes) {
  const Limits limits{.max_object_bytes = 1 << 16};
  const absl::StatusOr<ReceivedFrame> frame = ParseObjectFrame(bytes, limits);
  google::protobuf::io::ArrayInputStream pieces(bytes.data(), static_cast<int>(bytes.size()),
                                                /*block_size=*/7);
  const absl::StatusOr<ReceivedFrame> again = ParseObjectFrame(pieces, bytes.size(), limits);
  if (frame.ok() != again.ok() || (frame.ok() && !Equal(*frame, *again))) std::abort();
  if (!frame.ok()) return;
  std::vector<Object> objects;
  for (const ReceivedObject& object : frame->objects) {
    if (static_cast<int64_t>(object.bytes.size()) > limits.max_object_bytes) std::abort();
    objects.push_back({object.id, std::make_shared<const std::string>(object.bytes)});
  }
  const absl::StatusOr<ReceivedFrame> written = ParseObjectFrame(FormatFrame("", objects), limits);
  const ReceivedFrame expected{.objects = frame->objects, .session_id = ""};
  if (!written.ok() || !Equal(*written, expected)) std::abort();
}

}  // namespace
}  // namespace fedumm::wire

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fedumm::wire::CheckFrame({reinterpret_cast<const char*>(data), size});
  return 0;
}
