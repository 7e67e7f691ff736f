// The merges of a byte-pair encoding.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace fedumm::model {

class BpeMerges {
 public:
  // `byte_ids` are the tokens of single bytes.
  void SetBytes(const std::array<int32_t, 256>& byte_ids) { byte_ids_ = byte_ids; }
  // The earlier a merge is added, the earlier it is applied.
  void Add(int32_t left, int32_t right, int32_t merged);

  // Appends the tokens of `piece`: of all merges that apply the first added, of equal ones the
  // leftmost, until none applies. O(n log n).
  void Encode(std::string_view piece, std::vector<int64_t>& ids) const;

 private:
  struct Merge {
    int32_t rank;
    int32_t merged;
  };
  const Merge* Find(int32_t left, int32_t right) const;

  std::array<int32_t, 256> byte_ids_ = {};
  absl::flat_hash_map<uint64_t, Merge> merges_;
  int32_t next_rank_ = 0;
};

}  // namespace fedumm::model
