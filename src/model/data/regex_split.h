// Cuts text where a regular expression of a tokenizer says so.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace fedumm::model {

// PCRE2 with Unicode classes. Thread-safe. Expressions come from files: a match that takes too many
// steps is an error.
class RegexSplit {
 public:
  static absl::StatusOr<RegexSplit> Compile(const std::string& expression);

  // Each match is a piece, and so is what lies between two matches. `text` must be UTF-8 and
  // outlive the result.
  absl::StatusOr<std::vector<std::string_view>> Split(std::string_view text) const;

 private:
  explicit RegexSplit(std::shared_ptr<void> code) : code_(std::move(code)) {}
  std::shared_ptr<void> code_;  // shared so that a tokenizer can be copied
};

}  // namespace fedumm::model
