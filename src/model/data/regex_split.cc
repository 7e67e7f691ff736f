#include "model/data/regex_split.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace fedumm::model {
namespace {

constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kHeapLimitKib = 65'536;

std::string Message(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

struct Deleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

}  // namespace

absl::StatusOr<RegexSplit> RegexSplit::Compile(const std::string& expression) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* const code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("bad regular expression at byte ", offset, ": ", Message(error)));
  }
  return RegexSplit(
      std::shared_ptr<void>(code, [](void* c) { pcre2_code_free(static_cast<pcre2_code*>(c)); }));
}

absl::StatusOr<std::vector<std::string_view>> RegexSplit::Split(std::string_view text) const {
  const auto* const code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_data, Deleter> data(
      pcre2_match_data_create_from_pattern(code, nullptr));
  const std::unique_ptr<pcre2_match_context, Deleter> context(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);

  std::vector<std::string_view> pieces;
  size_t kept = 0;   // where the next piece begins
  size_t start = 0;  // where the next search begins
  while (start < text.size()) {
    const int result = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                   start, PCRE2_NO_UTF_CHECK, data.get(), context.get());
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result < 0) {
      return absl::InvalidArgumentError(absl::StrCat("cannot split text: ", Message(result)));
    }
    const PCRE2_SIZE* const match = pcre2_get_ovector_pointer(data.get());
    if (match[0] < start || match[1] < match[0]) {  // \K in a lookaround can do this
      return absl::InvalidArgumentError("regular expression matches backwards");
    }
    if (match[1] == match[0]) {  // an empty match: look again behind the next character
      start = match[1] + 1;
      while (start < text.size() && (static_cast<uint8_t>(text[start]) & 0xc0) == 0x80) ++start;
      continue;
    }
    if (match[0] > kept) pieces.push_back(text.substr(kept, match[0] - kept));
    pieces.push_back(text.substr(match[0], match[1] - match[0]));
    kept = start = match[1];
  }
  if (kept < text.size()) pieces.push_back(text.substr(kept));
  return pieces;
}

}  // namespace fedumm::model
