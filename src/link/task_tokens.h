#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace fedumm::link {

// Which process may act for which run: a token for each run that has a process, valid for a while
// and renewed by each call of the process. Only hashes of tokens are kept, so that neither the time
// of a lookup nor a memory dump reveals one. Times are the caller's monotonic `now`. Not
// thread-safe.
class TaskTokens {
 public:
  // A new token, 256 hex digits, in place of the run's last. `ticket` names the request that it
  // answers.
  std::string Issue(uint64_t run_id, uint64_t ticket, absl::Time until);
  void Revoke(uint64_t run_id);
  void Renew(uint64_t run_id, absl::Time until);

  // The run of a valid token.
  std::optional<uint64_t> Find(std::string_view token) const;
  // The run whose token answered that request.
  std::optional<uint64_t> FindTicket(uint64_t ticket) const;
  std::vector<uint64_t> Expired(absl::Time now) const;  // runs
  absl::Time next_end() const;

 private:
  struct Task {
    std::string token_hash;
    uint64_t ticket = 0;
    absl::Time until;
  };

  std::map<uint64_t, Task> tasks_;                     // by run
  std::map<std::string, uint64_t, std::less<>> runs_;  // by token_hash
  std::set<std::pair<absl::Time, uint64_t>> ends_;
};

}  // namespace fedumm::link
