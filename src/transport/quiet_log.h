#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"

namespace fedumm::transport {

// Logs at most one line for each kind of problem every ten seconds, with the number of lines that
// were left out. Thread-safe.
class QuietLog {
 public:
  enum Kind { kHandshake, kPlaintext, kTls, kFull, kAccept, kSlow, kNumKinds };

  void Warn(Kind kind, const std::string& peer, const std::string& text);

 private:
  struct Entry {
    std::chrono::steady_clock::time_point next;
    int64_t suppressed = 0;
  };
  Mutex mu_;
  std::array<Entry, kNumKinds> entries_ ABSL_GUARDED_BY(mu_);
};

}  // namespace fedumm::transport
