#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "fedumm/model/tokenizer.h"

namespace {

// The alphabet and a few merges; no file, so that the fuzzer runs anywhere.
const fedumm::model::Tokenizer& TinyTokenizer() {
  static const auto tokenizer = [] {
    std::string vocab = "{";
    int id = 0;
    const auto add = [&](const std::string& token) {
      vocab += (id > 0 ? ",\"" : "\"") + token + "\":" + std::to_string(id);
      ++id;
    };
    char letter[8];
    int next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
      std::snprintf(letter, sizeof(letter), "\\u%04x", printable ? byte : next++);
      add(letter);
    }
    for (const char* const token : {"aa", "aaa", "ab"}) add(token);
    return fedumm::model::Tokenizer::FromVocabAndMerges(
               vocab + "}", "a a\naa a\na b\n",
               R"({"added_tokens_decoder":{"300":{"content":"<|im_end|>"}}})")
        .value();
  }();
  return tokenizer;
}

}  // namespace

// Valid text is encoded, ids depend on nothing but its normal form, and decoding gives that form.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto ids = TinyTokenizer().Encode(text);
  if (!ids.ok()) return 0;
  const std::string decoded = TinyTokenizer().Decode(*ids);
  bool ascii = true;
  for (const char c : text) ascii &= static_cast<uint8_t>(c) < 0x80;
  if (ascii && decoded != text) std::abort();
  if (!TinyTokenizer().Encode(decoded).ok()) std::abort();
  return 0;
}
