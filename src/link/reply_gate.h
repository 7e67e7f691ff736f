#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace fedumm::link {

// Bounds the replies that are in memory at once: a node that has announced one waits for its answer
// while others are being uploaded or used, so that a server's memory does not grow with the number
// of its nodes. No node waits long: after `longest_hold` it is asked to try again, or is admitted
// if no reply was used up meanwhile. A reply that was admitted `patience` ago no longer counts. Not
// thread-safe.
class ReplyGate {
 public:
  struct Options {
    int64_t max_bytes = int64_t{32} << 20;  // of all replies inside; a single one may be larger
    absl::Duration longest_hold = absl::Seconds(20);  // stock nodes give up a call after 30 s
    absl::Duration patience = absl::Seconds(10);
  };
  explicit ReplyGate(const Options& options) : options_(options) {}

  // A reply of about `num_bytes` to this instruction is announced. True if it may be uploaded now;
  // one that was admitted before may, but its time is not extended. Else it is to be held.
  bool Enter(const std::string& instruction_id, int64_t num_bytes, absl::Time now);
  // Until TakeReady returns `go`, to be called with OK, or with UNAVAILABLE if the budget did not
  // admit it in time. It replaces one that is held for the same instruction; call what is returned,
  // without a lock, to tell that one.
  using Go = std::function<void(absl::Status)>;
  std::function<void()> Hold(const std::string& instruction_id, int64_t num_bytes, absl::Time now,
                             Go go);
  // The reply is no longer in memory, or will not come.
  void Leave(const std::string& instruction_id);
  // What was held and is admitted, or refused, by now. To be called soon, without a lock.
  std::vector<std::function<void()>> TakeReady(absl::Time now);
  // All that is held.
  std::vector<std::function<void()>> TakeAll();
  absl::Time next_due() const;  // when time alone opens

 private:
  struct Inside {
    int64_t num_bytes;
    absl::Time until;
  };
  struct Held {
    std::string instruction_id;
    int64_t num_bytes;
    absl::Time until;
    int64_t num_left;  // of the gate, then
    Go go;
  };

  bool HasRoom(int64_t num_bytes) const;
  void Admit(const std::string& instruction_id, int64_t num_bytes, absl::Time now);
  void DropOld(absl::Time now);

  const Options options_;
  std::map<std::string, Inside> inside_;
  int64_t bytes_inside_ = 0;
  int64_t num_left_ = 0;   // replies that were used up
  std::deque<Held> held_;  // longest first
};

}  // namespace fedumm::link
