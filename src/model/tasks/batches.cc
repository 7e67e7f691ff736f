#include "model/tasks/batches.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace fedumm::model {

Batches::Batches(std::vector<std::vector<int64_t>> groups, GroupOrder order) {
  if (order == GroupOrder::kMixed) groups_.emplace_back();
  for (std::vector<int64_t>& examples : groups) {
    size_ += static_cast<int64_t>(examples.size());
    if (order == GroupOrder::kTakeTurns) groups_.emplace_back();
    Group& group = groups_.back();
    group.examples.insert(group.examples.end(), examples.begin(), examples.end());
  }
}

void Batches::Seed(uint64_t seed) {
  random_ = Random(seed);
  for (Group& group : groups_) {
    std::sort(group.examples.begin(), group.examples.end());
    group.next = group.examples.size();
  }
  turns_.clear();
}

absl::StatusOr<std::vector<int64_t>> Batches::Next(int64_t count) {
  if (size_ == 0) return absl::FailedPreconditionError("the shard has no examples");
  if (count <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("batch size must be positive: ", count));
  }
  std::vector<int64_t> batch;
  while (static_cast<int64_t>(batch.size()) < count) batch.push_back(NextOf(NextGroup()));
  return batch;
}

Batches::Group& Batches::NextGroup() {
  if (groups_.size() == 1) return groups_.front();
  if (turns_.empty()) {
    for (size_t i = 0; i < groups_.size(); ++i) {
      if (!groups_[i].examples.empty()) turns_.push_back(i);
    }
    random_.Shuffle(turns_);
  }
  Group& group = groups_[turns_.back()];
  turns_.pop_back();
  return group;
}

int64_t Batches::NextOf(Group& group) {
  if (group.next >= group.examples.size()) {
    random_.Shuffle(group.examples);
    group.next = 0;
  }
  return group.examples[group.next++];
}

}  // namespace fedumm::model
