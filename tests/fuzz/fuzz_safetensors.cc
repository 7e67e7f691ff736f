#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "fedumm/model/safetensors.h"

// What is accepted covers its bytes exactly and can be written and read again.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using fedumm::model::SafetensorsFile;
  const auto file = SafetensorsFile::Parse({reinterpret_cast<const char*>(data), size});
  if (!file.ok()) return 0;
  size_t covered = 0;
  for (const auto& tensor : file->tensors()) {
    covered += tensor.bytes.size();
    if (file->Find(tensor.name) != &tensor) std::abort();
  }
  if (covered > size) std::abort();
  const auto bytes = fedumm::model::SerializeSafetensors(file->tensors(), file->metadata());
  // A dimension beyond int64 does not survive; the product of the clamped ones may then overflow
  // differently.
  if (bytes.ok() && !SafetensorsFile::Parse(*bytes).ok()) std::abort();
  return 0;
}
