// The flag --shard: one of several equal parts of the work, for several processes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace fedumm::programs {

struct Shard {
  int64_t number = 1;  // from 1 to `count`
  int64_t count = 1;

  // Whether the item with that index belongs to this shard: every count'th one does.
  bool Has(int64_t index) const { return index % count == number - 1; }
};

// Reads "i/n" with i from 1 to n.
inline absl::StatusOr<Shard> ParseShard(std::string_view text) {
  Shard shard;
  const size_t slash = text.find('/');
  if (slash != text.npos && absl::SimpleAtoi(std::string(text.substr(0, slash)), &shard.number) &&
      absl::SimpleAtoi(std::string(text.substr(slash + 1)), &shard.count) && shard.number >= 1 &&
      shard.number <= shard.count) {
    return shard;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--shard must be i/n with i from 1 to n, as 1/4: ", std::string(text)));
}

}  // namespace fedumm::programs
