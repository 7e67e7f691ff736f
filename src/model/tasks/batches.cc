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
  drawn_.clear();
}

void Batches::SortByLength(int64_t batches, std::function<int64_t(int64_t example)> length) {
  together_ = batches;
  length_ = std::move(length);
  drawn_.clear();
}

absl::StatusOr<std::vector<int64_t>> Batches::Next(int64_t count) {
  if (size_ == 0) return absl::FailedPreconditionError("the shard has no examples");
  if (count <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("batch size must be positive: ", count));
  }
  if (together_ <= 1) return Draw(count);
  if (drawn_.empty() || std::ssize(drawn_.back()) != count) {
    std::vector<int64_t> all = Draw(count * together_);
    std::ranges::stable_sort(all, {}, length_);
    drawn_.clear();
    for (auto it = all.begin(); it != all.end(); it += count) drawn_.emplace_back(it, it + count);
    random_.Shuffle(drawn_);
  }
  std::vector<int64_t> batch = std::move(drawn_.back());
  drawn_.pop_back();
  return batch;
}

std::vector<int64_t> Batches::Draw(int64_t count) {
  std::vector<int64_t> examples;
  while (std::ssize(examples) < count) examples.push_back(NextOf(NextGroup()));
  return examples;
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
