#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace fedumm::model {

// A regular expression as PEFT's configurations use them (Python's syntax, of which PCRE2 shares
// what matters here). Patterns come from files: a match that takes too long is an error.
class Pattern {
 public:
  static absl::StatusOr<Pattern> Compile(const std::string& pattern);
  // Whether all of `text` matches.
  absl::StatusOr<bool> Matches(const std::string& text) const;

 private:
  explicit Pattern(std::shared_ptr<void> code) : code_(std::move(code)) {}
  std::shared_ptr<void> code_;
};

}  // namespace fedumm::model
