#include "node/run_contexts.h"

#include <algorithm>
#include <utility>

namespace fedumm {

Context* RunContexts::Find(uint64_t run_id) {
  const auto found = runs_.find(run_id);
  if (found == runs_.end()) return nullptr;
  found->second.last_use = ++use_;
  return &found->second.context;
}

Context& RunContexts::Add(Context context) {
  if (runs_.size() >= kMaxRuns) {
    runs_.erase(std::min_element(runs_.begin(), runs_.end(), [](const auto& a, const auto& b) {
      return a.second.last_use < b.second.last_use;
    }));
  }
  const uint64_t run_id = context.run_id;
  Entry& entry = runs_.insert_or_assign(run_id, Entry{std::move(context), ++use_}).first->second;
  return entry.context;
}

}  // namespace fedumm
