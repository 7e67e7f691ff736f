#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "fedumm/model/config.h"

// What is accepted has sane sizes only, and is read back from what it writes.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fedumm::model;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto config = BackboneConfig::FromJson(text); config.ok()) {
    for (const auto& [name, shape] : ExpectedTensors(*config)) {
      for (const int64_t side : shape) {
        if (side < 1) std::abort();
      }
    }
    const auto again = BackboneConfig::FromJson(config->ToJson());
    if (!again.ok() || again->ToJson() != config->ToJson()) std::abort();
  }
  if (const auto dit = DitConfigFromJson(text); dit.ok()) ExpectedTensors(*dit);
  return 0;
}
