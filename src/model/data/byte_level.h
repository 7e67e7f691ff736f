// The 256 letters that stand for bytes in the vocabularies of byte-level tokenizers.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace fedumm::model {

std::string ToByteLevel(std::string_view bytes);  // " red" is "Ġred"

// Nothing if `letters` has one outside the alphabet.
std::optional<std::string> FromByteLevel(std::string_view letters);

}  // namespace fedumm::model
