#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "fedumm/model/image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto image =
      fedumm::model::DecodeJpeg({reinterpret_cast<const char*>(data), size},
                                {.max_pixels = 65'536, .apply_exif_orientation = true});
  if (!image.ok()) return 0;
  if (!fedumm::model::EncodeJpeg(*image).ok()) std::abort();
  return 0;
}
