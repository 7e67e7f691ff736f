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
// of its nodes. It never waits long: who has waited for `longest_hold` is asked to try again, or,
// if nothing has moved meanwhile, comes in anyhow. A reply that has been inside for `patience`
// counts no more. Not thread-safe.
class ReplyGate {
 public:
  struct Options {
    int64_t max_bytes = int64_t{32} << 20;  // of all replies inside; a single one may be larger
    absl::Duration longest_hold = absl::Seconds(20);  // stock nodes give up a call after 30 s
    absl::Duration patience = absl::Seconds(10);
  };
  explicit ReplyGate(const Options& options) : options_(options) {}

  // A reply of about `num_bytes` to this instruction is announced. True if it may come now, as one
  // that is inside may, for no longer. Else it is to be held.
  bool Enter(const std::string& instruction_id, int64_t num_bytes, absl::Time now);
  // Until Open gives `go` back, to be called with OK, or with UNAVAILABLE if there was no room. One
  // that is held for the same instruction already gives its place away; what is returned tells it
  // so, once no lock is held.
  using Go = std::function<void(absl::Status)>;
  std::function<void()> Hold(const std::string& instruction_id, int64_t num_bytes, absl::Time now,
                             Go go);
  // The reply is no longer in memory, or will not come.
  void Leave(const std::string& instruction_id);
  // What is held and may come by now. To be called, once no lock is held, and soon.
  std::vector<std::function<void()>> Open(absl::Time now);
  // All that is held.
  std::vector<std::function<void()>> OpenAll();
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
  void ForgetOld(absl::Time now);

  const Options options_;
  std::map<std::string, Inside> inside_;
  int64_t bytes_inside_ = 0;
  int64_t num_left_ = 0;   // replies that were used up
  std::deque<Held> held_;  // longest first
};

}  // namespace fedumm::link
