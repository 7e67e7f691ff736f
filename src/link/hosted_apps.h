#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "flwr/proto/runtime.pb.h"
#include "link/run_logs.h"
#include "link/taken_replies.h"
#include "link/task_tokens.h"

namespace fedumm::link {

using AcquireDone = std::function<void(absl::StatusOr<flwr::proto::AcquireTaskResponse>)>;

// What a SuperLink knows of the processes that run ServerApps for it. Plain data.
struct HostedApps {
  // A SuperExec that waits for a run.
  struct Acquire {
    absl::Time until;
    AcquireDone done;
  };
  // A ServerApp that waits for the replies to all of these.
  struct Pull {
    uint64_t run_id = 0;
    std::vector<std::string> pending;             // instruction ids; only the last is looked at
    absl::flat_hash_set<std::string> all;         // what was pending at first
    absl::Time recheck = absl::InfiniteFuture();  // when time alone can end that one's wait
    absl::Time until;
    size_t num_asked = 0;
    bool gathers = false;  // there are some replies: `until` is near
    std::function<void()> ready;
  };

  TaskTokens tokens;
  TakenReplies replies;
  RunLogs logs;
  std::map<uint64_t, Acquire> acquires;  // by ticket, which grow with time
  std::map<uint64_t, Pull> pulls;        // by ticket
  std::map<uint64_t, std::pair<uint64_t, std::function<void()>>>
      log_readers;  // by ticket: of which run, and what to call when there is more
};

}  // namespace fedumm::link
