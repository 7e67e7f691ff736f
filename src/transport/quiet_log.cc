#include "transport/quiet_log.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace fedumm::transport {

void QuietLog::Warn(Kind kind, const std::string& peer, const std::string& text) {
  int64_t suppressed = 0;
  {
    MutexLock lock(mu_);
    const auto now = std::chrono::steady_clock::now();
    Entry& entry = entries_[kind];
    if (now < entry.next) {
      ++entry.suppressed;
      return;
    }
    entry.next = now + std::chrono::seconds(10);
    suppressed = std::exchange(entry.suppressed, 0);
  }
  Log()->warn("http: {}: {}{}", peer, Printable(text),
              suppressed > 0 ? absl::StrCat(" (and ", suppressed, " more)") : "");
}

}  // namespace fedumm::transport
