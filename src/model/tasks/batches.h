#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/random.h"

namespace fedumm::model {

// How the groups of a shard (pictures of one colour, say) share its batches.
enum class GroupOrder {
  kMixed,      // one pass over all examples: a group is seen as often as it has examples
  kTakeTurns,  // one example of each group, then again: all groups are seen equally often
};

// Endless passes over the examples of a shard, each pass in a new random order. Not thread-safe.
class Batches {
 public:
  // `groups` hold the indices of the examples.
  Batches(std::vector<std::vector<int64_t>> groups, GroupOrder order);
  explicit Batches(std::vector<int64_t> shard) : Batches({std::move(shard)}, GroupOrder::kMixed) {}

  // From now on `batches` batches are drawn together and dealt by the examples' lengths, so that
  // rows of one batch need little padding; they come in a random order. 1: as they are drawn.
  void SortByLength(int64_t batches, std::function<int64_t(int64_t example)> length);

  int64_t size() const { return size_; }  // examples in all groups
  // Starts again: the batches that follow depend on `seed` and on the set of examples alone.
  void Seed(uint64_t seed);
  // The next `count` examples. A batch may span two passes. FAILED_PRECONDITION without examples,
  // INVALID_ARGUMENT unless `count` is positive.
  absl::StatusOr<std::vector<int64_t>> Next(int64_t count);
  // The source of the order. What else is random about a batch is drawn here, after Next.
  Random& random() { return random_; }

 private:
  struct Group {
    std::vector<int64_t> examples;
    size_t next = SIZE_MAX;  // past the end: shuffled before the next example is taken
  };

  std::vector<int64_t> Draw(int64_t count);
  Group& NextGroup();
  int64_t NextOf(Group& group);

  std::vector<Group> groups_;
  std::vector<size_t> turns_;  // groups still to come in this turn
  int64_t size_ = 0;
  int64_t together_ = 1;
  std::function<int64_t(int64_t)> length_;
  std::vector<std::vector<int64_t>> drawn_;  // of one size, to be dealt from the end
  Random random_{0};
};

}  // namespace fedumm::model
