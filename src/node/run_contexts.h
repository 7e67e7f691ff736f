#pragma once

#include <cstdint>
#include <map>

#include "fedumm/context.h"

namespace fedumm {

// The Context of each run that this node takes part in; the least recently used one is dropped when
// there are many. Not thread-safe.
class RunContexts {
 public:
  // nullptr for a run that is not here. Valid until the next Add.
  Context* Find(uint64_t run_id);
  Context& Add(Context context);

 private:
  static constexpr size_t kMaxRuns = 64;

  struct Entry {
    Context context;
    uint64_t last_use;
  };
  std::map<uint64_t, Entry> runs_;
  uint64_t use_ = 0;
};

}  // namespace fedumm
