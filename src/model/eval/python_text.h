// Python's string methods on decoded text, for metrics that were defined by Python code.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fedumm::model {

// A byte that is not UTF-8 becomes U+FFFD.
std::u32string DecodeUtf8(std::string_view text);
std::string EncodeUtf8(std::u32string_view text);

bool IsSpace(char32_t c);  // str.isspace
bool IsDigit(char32_t c);  // \d: any decimal digit of Unicode

std::u32string Lower(std::u32string_view text);  // str.lower, without its rule for a final sigma
std::u32string_view Strip(std::u32string_view text);
std::vector<std::u32string_view> SplitWords(std::u32string_view text);

}  // namespace fedumm::model
