#include "model/lora/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace fedumm::model {
namespace {

constexpr size_t kMaxPatternBytes = 4096;
constexpr uint32_t kMaxMatchSteps = 100'000;
constexpr uint32_t kMaxHeapKib = 1024;

std::string MessageOf(int error) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(error, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

}  // namespace

absl::StatusOr<Pattern> Pattern::Compile(const std::string& pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("pattern is longer than ", kMaxPatternBytes, " bytes: ", pattern.size()));
  }
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_NEVER_BACKSLASH_C,
                                   &error, &offset, nullptr);
  if (code == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("bad pattern, ", MessageOf(error), " at ", offset, ": ", pattern));
  }
  return Pattern(std::shared_ptr<void>(
      code, [](void* compiled) { pcre2_code_free(static_cast<pcre2_code*>(compiled)); }));
}

absl::StatusOr<bool> Pattern::Matches(const std::string& text) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> limits(
      pcre2_match_context_create(nullptr), &pcre2_match_context_free);
  pcre2_set_match_limit(limits.get(), kMaxMatchSteps);
  pcre2_set_heap_limit(limits.get(), kMaxHeapKib);
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(
      pcre2_match_data_create_from_pattern(code, nullptr), &pcre2_match_data_free);
  const int rc = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, 0,
                             match.get(), limits.get());
  if (rc >= 0) return true;
  if (rc == PCRE2_ERROR_NOMATCH) return false;
  return absl::InvalidArgumentError(
      absl::StrCat("pattern cannot be matched against ", text, ": ", MessageOf(rc)));
}

}  // namespace fedumm::model
