// As much JSON as Flower's objects need: objects, arrays of integers, strings. No values of other
// kinds, no nesting of its own.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fedumm::wire {

// `text`, which should be UTF-8, in quotes and in ASCII, with the escapes that Python chooses.
// Bytes that are no UTF-8 become U+FFFD.
std::string QuoteJson(std::string_view text);

// Reads one text from front to back. After an error its position is unspecified.
class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : rest_(text) {}

  // Skips white space, then takes `token` if it is next.
  bool Take(char token);
  // INVALID_ARGUMENT unless only white space is left.
  absl::Status End();
  // INVALID_ARGUMENT for control characters, unpaired surrogates, invalid UTF-8 and more than
  // `max_bytes` in UTF-8.
  absl::StatusOr<std::string> String(int64_t max_bytes);
  // A non-negative integer without leading zeros, fraction or exponent.
  absl::StatusOr<int64_t> Integer();
  absl::StatusOr<std::vector<int64_t>> Integers(int64_t max_values);

 private:
  void SkipSpace();
  absl::Status TakeEscape(std::string& result);
  absl::StatusOr<uint32_t> FourHexDigits();

  std::string_view rest_;
};

}  // namespace fedumm::wire
