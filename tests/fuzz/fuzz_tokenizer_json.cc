#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "fedumm/model/tokenizer.h"

// What a tokenizer encodes, it decodes.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = fedumm::model::Tokenizer::FromTokenizerJson(json);
  if (!tokenizer.ok()) return 0;
  constexpr std::string_view kText = "it's 12 red  circles, <|im_end|>\n \xe4\xbd\xa0";
  const auto ids = tokenizer->Encode(kText);
  if (ids.ok() && tokenizer->Decode(*ids) != kText) std::abort();
  return 0;
}
