// adapter_config.json, and the patterns in it.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "fedumm/model/peft_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fedumm::model;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<LoraConfig> config = ParsePeftConfig(text);
  if (!config.ok()) return 0;
  (void)SelectModule(*config, "model.layers.10.self_attn.q_proj");
  // What is written reads back as the same.
  const std::string written = FormatPeftConfig(*config);
  const absl::StatusOr<LoraConfig> again = ParsePeftConfig(written);
  if (!again.ok() || FormatPeftConfig(*again) != written) std::abort();
  return 0;
}
