#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "fedumm/model/image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto image =
      fedumm::model::DecodePng({reinterpret_cast<const char*>(data), size}, /*max_pixels=*/65'536);
  if (!image.ok()) return 0;
  const auto bytes = fedumm::model::EncodePng(*image);
  if (!bytes.ok() || fedumm::model::DecodePng(*bytes).value() != *image) std::abort();
  return 0;
}
