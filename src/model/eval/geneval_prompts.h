#pragma once

#include <string_view>

namespace fedumm::model {

// The 553 prompts of GenEval, as its evaluation_metadata.jsonl holds them: one JSON object a line
// with tag, include, exclude and prompt.
std::string_view GenevalPrompts();

}  // namespace fedumm::model
