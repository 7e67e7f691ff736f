#include "node/environment.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>

namespace fedumm {

bool WaitFor(absl::Duration duration, const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any stopped;
  std::unique_lock<std::mutex> lock(mutex);
  const auto end = std::chrono::steady_clock::now() +
                   absl::ToChronoNanoseconds(std::min(duration, absl::Hours(24)));
  stopped.wait_until(lock, stop, end, [] { return false; });
  return !stop.stop_requested();
}

}  // namespace fedumm
