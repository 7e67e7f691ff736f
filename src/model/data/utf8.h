// UTF-8 and Unicode's composed normal form.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace fedumm::model {

bool IsUtf8(std::string_view text);

// A byte that is not UTF-8 becomes U+FFFD; a character that breaks off becomes one U+FFFD.
std::u32string DecodeUtf8(std::string_view text);
std::string EncodeUtf8(std::u32string_view text);

// INVALID_ARGUMENT if `text` is not UTF-8.
absl::StatusOr<std::string> Nfc(std::string_view text);

}  // namespace fedumm::model
