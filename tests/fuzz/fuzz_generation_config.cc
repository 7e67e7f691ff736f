#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "fedumm/model/generation.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto settings =
      fedumm::model::ParseGenerationConfig({reinterpret_cast<const char*>(data), size});
  if (settings.ok() && !settings->Validate().ok()) std::abort();
  return 0;
}
