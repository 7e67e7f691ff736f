#include "transport/quiet_log.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace fedumm::transport {

void QuietLog::Warn(Kind kind, const std::string& peer, const std::string& text) {
  int64_t unsaid = 0;
  {
    MutexLock lock(mu_);
    const auto now = std::chrono::steady_clock::now();
    Entry& entry = entries_[kind];
    if (now < entry.next) {
      ++entry.unsaid;
      return;
    }
    entry.next = now + std::chrono::seconds(10);
    unsaid = std::exchange(entry.unsaid, 0);
  }
  Log()->warn("http: {}: {}{}", peer, Printable(text),
              unsaid > 0 ? absl::StrCat(" (and ", unsaid, " more)") : "");
}

}  // namespace fedumm::transport
