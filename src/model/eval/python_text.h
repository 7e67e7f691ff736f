// Python's string methods on decoded text, for metrics that were defined by Python code.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fedumm::model {

bool IsSpace(char32_t c);  // str.isspace
bool IsDigit(char32_t c);  // \d: any decimal digit of Unicode

std::u32string Lower(std::u32string_view text);  // str.lower, without its rule for a final sigma
std::u32string_view Strip(std::u32string_view text);
std::vector<std::u32string_view> SplitWords(std::u32string_view text);

}  // namespace fedumm::model
